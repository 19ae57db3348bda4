"""What README and docs say is so: commands give the output shown, links lead somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from processes import serving

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gateway() -> Iterator[httpx.Client]:
    with serving() as (client, _):
        yield client


def console() -> list[tuple[str, str]]:
    """The commands of README's console block that can be repeated, and the output shown below each."""
    (block,) = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    entries = [entry.partition("\n") for entry in block.removeprefix("$ ").split("\n$ ")]
    return [(command, output.strip()) for command, _, output in entries if command.startswith("curl")]


@pytest.mark.parametrize(("command", "shown"), console())
def test_a_command_gives_the_output_shown(gateway: httpx.Client, command: str, shown: str) -> None:
    """Numbers to two digits: another processor rounds differently."""
    route, body = re.fullmatch(r"curl -s 127.0.0.1:8000(\S+) -d '(.*)'.*", command).groups()
    given = gateway.post(route, content=body).text
    if cut := re.search(r"cut -c1-(\d+)", command):
        given = given[: int(cut[1])]

    def parts(text: str) -> tuple[list[str], list[float]]:
        """Words and numbers apart; the last number may be cut short."""
        number = r"-?\d+\.\d+"
        return re.sub(number, "#", text).split("#")[:-1], [float(match) for match in re.findall(number, text)][:-1]

    assert parts(given)[0] == parts(shown)[0]
    assert np.allclose(parts(given)[1], parts(shown)[1], atol=0.01)
    assert parts(shown)[1]


def test_the_python_example_runs(gateway: httpx.Client) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, np.ndarray] = {}
    exec(code.replace(":8000", f":{gateway.base_url.port}"), names)

    assert names["vectors"].shape == (2, 256)
    assert names["vectors"].dtype == np.float32


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Those to files of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]

    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"`make ([a-z-]+)", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page} names make {target}"


def test_the_model_card_has_the_numbers_that_were_measured() -> None:
    """Row by row, the four numbers are those of the evaluation's own file."""
    card = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8").split("\n")
    rows = json.loads((ROOT / "docs" / "danmaku-bert-mini.json").read_text(encoding="utf-8"))
    shown = [line for line in card if re.match(r"\| (before|after), ", line)]

    assert len(shown) == len(rows)
    for line, row in zip(shown, rows, strict=True):
        numbers = ("masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy", "next_sentence_loss")
        assert [cell.split()[0] for cell in line.split(" | ")[1:5]] == [f"{row[name]:.4f}" for name in numbers]
