"""The commands and examples that README and docs show, how they are run, and what of their output may differ.

A page is found by itself, and so is a command in it: a line of a block that begins with a program (`PROGRAMS`), after a
`$ ` with its output below. `not_run.py` lists the ones that are not run; those, and the ones within prose, are only
looked up: their sub-command and flags have to exist.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

from service.cli import main as danmaku
from training.cli import main as danmaku_train

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.md", "docs/**/*.md", "*/README*.md", "models/*/README.md")
        for path in ROOT.glob(pattern)
    }
)
CHINESE_SUFFIX = ".zh-CN.md"
TRANSLATIONS = {page: page.replace(CHINESE_SUFFIX, ".md") for page in PAGES if page.endswith(CHINESE_SUFFIX)}
PROGRAMS = (
    r"(?:[A-Z_]+=\S+ )*(?:sudo )?(?:\.venv[\w-]*/bin/[\w-]+|danmaku(?:-train)?|make|curl|python3?(?:\.\d+)?|pip|git|"
    r"apt-get|cd|docker|kubectl|kustomize|helm|kind|promtool|amtool|redis-(?:cli|server)|bert-serving-start|gcloud|"
    r"tensorboard|tail|npm|npx|gzip|openssl|watch|journalctl|systemctl)(?= |$)"
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|(?<=\n\n)((?: {4}[^\n]*\n+)+)", re.MULTILINE | re.DOTALL)
NUMBER = r"-?\d+\.\d+(?:e-?\d+)?"
ADDRESS = "127.0.0.1:8000"


@dataclass(frozen=True)
class Command:
    page: str
    text: str  # as a shell takes it
    shown: str | None = None  # the output below it
    is_in_prose: bool = False

    @property
    def words(self) -> list[str]:
        """Splits the command as a shell does, without comments."""
        return shlex.split(self.text, comments=True)


def commands(page: str) -> list[Command]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found, prose = [], text
    for language, fenced, indented in BLOCK.findall(text):
        prose = prose.replace(fenced or indented, "\n", 1)
        if language not in ("python", "json", "yaml", "mermaid", "text"):
            found += _of_block(page, fenced or re.sub("^    ", "", indented, flags=re.MULTILINE))
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        code = " ".join(code.split())
        if re.match(PROGRAMS + " ", code):
            found.append(Command(page, code, is_in_prose=True))
    return found


def _of_block(page: str, block: str) -> Iterator[Command]:
    if re.search(r"^\$ ", block, re.MULTILINE):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            text, shown = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", entry, re.DOTALL).groups()  # type: ignore[union-attr]
            yield Command(page, text, shown.rstrip("\n") or None)
        return
    for line in re.findall(r"(?:.*\\\n)*.+", block):
        if re.match(PROGRAMS, line):
            yield Command(page, line)


def snippets(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def headings(page: str) -> list[int]:
    """Returns the levels of the headings."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


def run(command: Command, url: str, directory: Path) -> str:
    """Returns the output of a command. Raises AssertionError if it fails; replaces the usual address by `url`."""
    text = command.text.replace(ADDRESS, url.removeprefix("http://"))
    if re.search(r"danmaku (bench|collections)|examples\.bot", text) and "--url" not in text and "--help" not in text:
        text = re.sub(r"( +[|#]|$)", rf" --url {url}\1", text, count=1)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text],
        cwd=directory,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{command.page}: {command.text}\n{done.stdout}{done.stderr}"
    return done.stdout.rstrip("\n")


def workplace(directory: Path) -> Path:
    """Makes a folder that looks like a checkout, in which commands may write."""
    for name in ("models", "examples", "service", "training", "tests", "benchmarks", "Makefile", "pyproject.toml"):
        (directory / name).symlink_to(ROOT / name)
    (directory / ".venv").symlink_to(Path(sys.prefix))
    (directory / "danmaku.txt").write_text("草\nawsl\n晚安\n阿夸\n" * 10, encoding="utf-8")
    return directory


def train_head(directory: Path) -> Path:
    """Returns the folder of the head that the pages train and serve. It does not depend on the model's fingerprint."""
    head = directory / "heads/question"
    examples, model = ROOT / "examples/questions.csv", ROOT / "models/danmaku-bert-mini"
    with contextlib.redirect_stdout(io.StringIO()):
        status = danmaku_train(["classify", "--input", str(examples), "--model", str(model), "--output", str(head)])
    assert status == 0
    return head


def forget_collections(http: httpx.Client) -> None:
    """Deletes all collections, because a page begins as a new user does."""
    for each in http.get("/collections").json()["collections"]:
        if each["name"] != "default":
            http.delete(f"/collections/{each['name']}").raise_for_status()


def differs(shown: str, given: str) -> str | None:
    """Returns the parts of the output that differ from what is shown, except numbers and what stands for `…`."""
    pattern = re.escape(_steady(shown)).replace("…", ".*")
    return None if re.fullmatch(pattern, _steady(given), re.DOTALL) else f"shown:\n{shown}\n\ngiven:\n{given}"


def kinds(output: str) -> set[str]:
    """Returns the kinds of lines, where words and their number depend on the model."""
    lines = re.sub(r"(「[^」]*」 ?)+", "「」", _steady(output)).split("\n")
    return {re.sub(r"[ \d,:]+", " ", line) for line in lines if line.strip()}


def _steady(text: str) -> str:
    """Removes what depends on the model, the processor and the time."""
    text = re.sub(r"\b[0-9a-f]{16}\b", "FINGERPRINT", text)
    text = re.sub('"[0-9a-f]+…', '"…', text)  # one that is cut short
    text = re.sub(r"[-\d.,]+$", "", text)  # a number that is cut short
    text = re.sub(rf"{NUMBER}(,{NUMBER})*,?", "#", text)  # however many there was room for
    return re.sub(r'"(bytes|created_at|seconds|cluster)":\d+', r'"\1":#', text)


def look_up(command: Command) -> str | None:
    """Returns the first part of a command that does not exist, or None."""
    words = [word for word in command.words if "=" not in word or word.startswith("-")]
    program = words[0].rpartition("/")[2] if words else ""
    if program == "make":
        return _make(words[1:])
    if program in ("danmaku", "danmaku-train") and len(words) > 1 and not words[1].startswith("-"):
        if words[1] == "worker" and "--classic" in words:
            return None
        known = _help(program, words[1])
        if len(words) > 2 and re.search(rf"[{{,]{re.escape(words[2])}[,}}]", known):  # a sub-command has one, too
            known = _help(program, words[1], words[2])
        return known and _unknown_flags(words, known)
    if program.startswith("python") and len(words) > 1 and words[1].endswith(".py"):
        path = ROOT / words[1]
        return _unknown_flags(words, path.read_text(encoding="utf-8")) if path.exists() else f"there is no {words[1]}"
    return None


def _make(words: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in words if re.fullmatch("[a-z0-9-]+", word)]
    missing = [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
    return f"there is no target {missing[0]}" if missing else None


def _unknown_flags(words: list[str], known: str) -> str | None:
    flags = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    unknown = [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", known)]
    return f"there is no flag {unknown[0]}" if unknown else None


@cache
def _help(program: str, *names: str) -> str:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        (danmaku if program == "danmaku" else danmaku_train)([*names, "--help"])
    return told.getvalue()
