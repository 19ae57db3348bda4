"""What README and docs say is so: commands run and give the output shown, links lead somewhere, languages agree.

Pages and commands are found by themselves (`pages.py`); the ones that no test can run are in `not_run.py`, with the
reason. One gateway and one worker serve all pages.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from http_page import render
from not_run import ELSEWHERE, NOT_RUN, is_run
from pages import (
    PAGES,
    ROOT,
    TRANSLATIONS,
    Command,
    commands,
    differs,
    forget_collections,
    headings,
    kinds,
    look_up,
    run,
    snippets,
    train_head,
    workplace,
)
from processes import RunningWorker, serving, working

ORIGINALS = [page for page in PAGES if page not in TRANSLATIONS]  # translations show the same commands
BUNDLED = ROOT / "models" / "danmaku-bert-mini"
BY_KIND = ("examples.bot", "danmaku bench")  # whose words and number of lines depend on the model, or the machine


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def gateway(directory: Path) -> Iterator[httpx.Client]:
    flags = ("--collections", f"sqlite://{directory}/collections", "--access-log", "false")
    with serving(*flags, "--heads", str(train_head(directory))) as (client, _):
        yield client


@pytest.fixture(scope="module")
def worker() -> Iterator[RunningWorker]:
    with working(BUNDLED, "-num_worker", "2") as running:
        yield running


def at(worker: RunningWorker, text: str) -> str:
    """Replaces the usual ports of a worker in a command by those of the running one."""
    text = re.sub(r"bert://127\.0\.0\.1(:5555:5556)?", worker.url, text)
    return text.replace("5555", str(worker.port)).replace("5556", str(worker.port_out))


@pytest.mark.parametrize("page", [page for page in ORIGINALS if any(map(is_run, commands(page)))])
def test_commands_give_the_output_shown(
    gateway: httpx.Client, worker: RunningWorker, directory: Path, page: str
) -> None:
    """They run in the order of the page. Numbers may differ: they depend on the model and the processor."""
    forget_collections(gateway)
    faults = []
    for command in filter(is_run, commands(page)):
        asked = Command(page, at(worker, command.text) if "bert://" in command.text else command.text)
        given = run(asked, str(gateway.base_url).rstrip("/"), directory)
        if command.shown is None:
            continue
        if any(name in command.text for name in BY_KIND):
            if missing := kinds(command.shown) - kinds(given):
                faults.append(f"{command.text}\nno line such as {missing} in\n{given}")
        elif fault := differs(command.shown, given):
            faults.append(f"{command.text}\n{fault}")
    assert not faults, f"{page}; `make docs` writes output anew\n" + "\n\n".join(faults)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_what_commands_name_exists(page: str) -> None:
    """This includes targets, sub-commands and flags of commands that are not run."""
    faults = [f"{command.text}: {fault}" for command in commands(page) if (fault := look_up(command))]
    assert not faults, page


def test_every_exception_is_needed() -> None:
    found = [command.text for page in PAGES for command in commands(page) if not command.is_in_prose]
    assert [beginning for beginning in NOT_RUN if not any(text.startswith(beginning) for text in found)] == []


def test_the_checker_finds_mistakes() -> None:
    """Otherwise the tests above could pass without checking anything."""
    readme = commands("README.md")

    assert sum(command.shown is not None for command in readme) >= 2
    assert sum(map(is_run, readme)) >= 3
    assert any(command.is_in_prose for command in readme)
    assert len(snippets("README.md")) == 1
    assert look_up(Command("README.md", "danmaku serve --no-such-flag 1")) == "there is no flag --no-such-flag"
    assert look_up(Command("README.md", "make nonsense")) == "there is no target nonsense"
    assert differs('{"dim":256,"a":[0.25,0.5]}', '{"dim":256,"a":[0.75,-1.5]}') is None
    assert differs('{"dim":256}', '{"dim":255}') and differs("a …", "b c")


@pytest.mark.parametrize("page", [page for page in ORIGINALS if snippets(page)])
def test_python_examples_run(gateway: httpx.Client, worker: RunningWorker, page: str) -> None:
    for code in snippets(page):
        if any(f"from {package} import" in code for package in ELSEWHERE):
            continue
        program = at(worker, code.replace(":8000", f":{gateway.base_url.port}"))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{page}\n{code}\n{done.stderr}"


def test_the_matrix_of_the_python_example_is_what_its_comment_says(gateway: httpx.Client) -> None:
    names: dict[str, np.ndarray] = {}
    exec(snippets("README.md")[0].replace(":8000", f":{gateway.base_url.port}"), names)

    assert names["vectors"].shape == (2, 256)
    assert names["vectors"].dtype == np.float32


def test_a_gateway_starts_in_front_of_the_worker_as_readme_says(worker: RunningWorker, directory: Path) -> None:
    """The worker has the flags that README shows; the gateway finds it by the URL that README shows."""
    texts = [command.text for command in commands("README.md")]
    assert f"danmaku worker -model_dir models/{BUNDLED.name} -num_worker 2 &" in texts
    assert "danmaku serve --encoder bert://127.0.0.1" in texts
    with serving("--collections", "none", model=worker.url) as (http, _):
        assert len(http.post("/embed", json=["草"]).json()["embeddings"][0]) == 256


def test_the_http_reference_is_that_of_the_gateway(gateway: httpx.Client, directory: Path) -> None:
    """It is compared route by route and field by field; `make docs` regenerates it."""
    page = "docs/http.md"
    forget_collections(gateway)
    url = str(gateway.base_url).rstrip("/")
    made = render(gateway.get("/openapi.json").json(), lambda text: run(Command(page, text), url, directory))

    assert differs((ROOT / page).read_text(encoding="utf-8"), made) is None


@pytest.mark.parametrize(("page", "original"), TRANSLATIONS.items())
def test_a_translation_matches_its_original(page: str, original: str) -> None:
    """It has the same headings, commands with output, examples, figures and links; sentences and comments differ."""
    assert headings(page) == headings(original)
    assert [(each.words, each.shown) for each in commands(page) if not each.is_in_prose] == [
        (each.words, each.shown) for each in commands(original) if not each.is_in_prose
    ]
    assert snippets(page) == snippets(original)
    assert {tuple(each.words) for each in commands(page)} == {tuple(each.words) for each in commands(original)}
    assert figures(page) == figures(original)
    assert Path(original).name in links(page)
    assert Path(page).name in links(original)
    assert link_targets(page) - {(original, None)} == link_targets(original) - {(original, None)}


def test_translations_link_to_translations() -> None:
    for page in TRANSLATIONS:
        for link in links(page):
            path = (ROOT / page).parent.joinpath(link.partition("#")[0]).resolve()
            target = path.relative_to(ROOT).as_posix()
            is_own_original = target == TRANSLATIONS[page]
            assert is_own_original or target not in TRANSLATIONS.values(), f"{page}: {link} has a translation"


def link_targets(page: str) -> set[tuple[str, int | None]]:
    """Returns the pages and the positions of the headings that links lead to, which are the same in every language."""
    targets = set()
    for link in links(page):
        file, _, anchor = unquote(link).partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        name = path.relative_to(ROOT).as_posix()
        place = list_anchors(path).index(anchor) if anchor else None
        targets.add((TRANSLATIONS.get(name, name), place))
    return targets


def figures(page: str) -> list[list[str]]:
    """Returns the numbers of every table."""
    rows = re.findall(r"^\|.*\|$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return [sorted(re.findall(r"\d[\d,.]*\d|\d", row)) for row in rows]


def links(page: str) -> list[str]:
    """Returns the links to files of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def list_anchors(page: Path) -> list[str]:
    """Makes the anchors of a page's headings as GitHub does."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES)
def test_link_targets_exist(page: str) -> None:
    for link in links(page):
        file, _, anchor = unquote(link).partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in list_anchors(path), link


def test_every_page_of_docs_is_in_the_index() -> None:
    index = links("docs/README.md")
    assert [page for page in PAGES if page.startswith("docs/") and Path(page).name not in [*index, "README.md"]] == []


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"`make ([a-z0-9-]+)", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page} names make {target}"


def test_the_model_card_has_the_numbers_that_were_measured() -> None:
    """Rows are compared with the evaluations' own files."""
    card = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")
    learned = json.loads((ROOT / "docs" / "danmaku-bert-mini.json").read_text(encoding="utf-8"))
    worth = json.loads((ROOT / "docs" / "danmaku-bert-mini-retrieval.json").read_text(encoding="utf-8"))
    losses = [
        line for line in card.split("\n") if re.match(r"\| (masked LM alone|(second|third) edition), .* videos", line)
    ]

    assert len(losses) == len(learned)
    for line, row in zip(losses, learned, strict=True):
        numbers = ("masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy", "next_sentence_loss")
        assert [cell.split()[0] for cell in line.split(" | ")[1:5]] == [f"{row[name]:.4f}" for name in numbers]
    for row in worth:
        for name in ("same_moment", "same_moment_live", "synonyms", "variants", "hubs"):
            mean = row[name]
            assert f"{mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]" in card
