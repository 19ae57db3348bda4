"""Every command reads the same danmaku from the same file, and refuses the same files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings_writers import WRITERS, Danmaku

from examples.bot.__main__ import main as bot
from examples.bot.lines import Line, Reader, lines_of
from service.cli import main as danmaku
from service.commands.collections.files import rows_of
from service.recordings import Options, name_of, open_recording
from service.recordings.lines import open_lines, open_pipe
from training.cli import main as train
from training.corpus.files import Source, read

# What XML, CSV and ASS can all say: no control characters, line breaks, braces or backslashes, no blanks at the ends.
TEXTS = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cn", "Co"), exclude_characters="\ufeff{}\\"),
    min_size=1,
    max_size=12,
).map(lambda text: text.strip() or "草")
SECONDS = st.integers(0, 360_000).map(lambda hundredths: hundredths / 100)


def by_clean(path: Path) -> list[Danmaku]:
    counts: Counter[tuple[str, ...]] = Counter()
    documents = list(read(Source(name_of(path), path, 0), None, Options(), counts))
    return [each for document in documents for each in zip(document.lines, document.seconds, strict=True)]


def by_load(path: Path) -> list[Danmaku]:
    items = [row.item for row, _ in rows_of(path, Options(keep_items=True))]
    return [(item["text"], item["metadata"]["seconds"]) for item in items if isinstance(item, dict)]


def by_embed(path: Path) -> list[str]:
    source, _ = open_lines(path)
    with source:
        return source.read().decode().splitlines()


def by_embed_of_a_pipe(path: Path) -> list[str]:
    with path.open("rb") as pipe:
        return open_pipe(pipe, "standard input")[0].read().decode().splitlines()


def by_bot(path: Path) -> list[Danmaku]:
    return _timed(list(lines_of(open_recording(path).rows())))


def by_bot_that_follows(path: Path) -> list[Danmaku]:
    content, reader = path.read_bytes(), Reader(str(path))
    lines = [line for at in range(0, len(content), 7) for line in reader.feed(content[at : at + 7])]
    return _timed(lines + list(reader.feed(b"", is_last=True)))


def _timed(lines: list[Line]) -> list[Danmaku]:
    return [(line.text, -1 if line.at_s is None else line.at_s) for line in lines]


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(danmaku=st.lists(st.tuples(TEXTS, SECONDS), min_size=1, max_size=6))
def test_every_command_reads_back_what_was_written(kind: str, danmaku: list[Danmaku]) -> None:
    suffix, write = WRITERS[kind]
    with TemporaryDirectory() as directory:
        path = Path(directory) / f"1{suffix}"
        path.write_bytes(write(danmaku))
        texts = [text for text, _ in danmaku]

        assert by_load(path) == danmaku
        assert by_bot(path) == danmaku
        assert by_embed(path) == texts
        # A subtitle file is cut where it leaps, and is in order in any case; all others are sorted.
        assert sorted(by_clean(path)) == sorted(danmaku)
        if kind != "segment":  # which is read whole
            assert by_bot_that_follows(path) == danmaku
            assert by_embed_of_a_pipe(path) == texts


@given(texts=st.lists(TEXTS.map(lambda text: f"好{text}"), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_plain_text_is_read_line_by_line(texts: list[str]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "a.txt"
        path.write_text("\n".join(texts), encoding="utf-8")
        assert by_embed(path) == by_embed_of_a_pipe(path) == texts
        assert [text for text, _ in by_clean(path)] == texts
        assert [row.item for row, _ in rows_of(path, Options(keep_items=True))] == texts
        assert [text for text, _ in by_bot(path)] == texts


GARBAGE: dict[str, tuple[str, bytes, str]] = {
    "a picture": ("a.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06", "not text"),
    "a picture called text": ("a.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00", "not text"),
    "requirements": (
        "requirements.txt",
        "numpy==1.26\nrequests>=2\n".encode("utf-16"),
        "not have the name of a recording",
    ),
    "packages": ("list.txt", "numpy==1.26\nrequests>=2\n".encode("utf-16"), "a list of packages"),
    "random bytes": ("a.txt", os.urandom(4096), "text"),
    "a page": ("a.html", b"<!DOCTYPE html><html><body><p>x</p></body></html>", "HTML"),
    "a page called xml": ("a.xml", b"<html><body>x</body></html>", "HTML"),
    "columns that cannot be told apart": ("a.csv", "某人甲,12.5,草\n某人乙,13.5,晚安\n".encode(), "which column"),
    "columns in the order of a recording, with a writer": (
        "b.csv",
        "".join(f"u{n},草,1.5,2019-05-12 13:31:10\n" for n in range(4)).encode(),
        "which column",
    ),
    "columns called text": ("a.txt", "某人甲,12.5,草\n某人乙,13.5,晚安\n".encode(), "which column"),
    "markup": ("a.txt", b"<p>x</p>\n<p>y</p>\n", "markup without danmaku"),
    "an entity": (
        "lol.xml",
        '<!DOCTYPE i [<!ENTITY a "哈">]><i><d p="1,1,25,1,1,0,a,2">&a;</d></i>'.encode(),
        "attacks",
    ),
    "objects without a text": ("a.jsonl", b'{"room": 1, "gift": "x"}\n' * 3, "no object has a field"),
}


def refuse_by_load(path: Path, folder: Path) -> int:
    return danmaku(["collections", "load", "room", str(path), "--url", "http://127.0.0.1:9"])


def refuse_by_embed(path: Path, folder: Path) -> int:
    return danmaku(["embed", str(path), "--output", str(folder / "out.npy")])


def refuse_by_bench(path: Path, folder: Path) -> int:
    return danmaku(["bench", str(path), "--url", "http://127.0.0.1:9"])


def refuse_by_clean(path: Path, folder: Path) -> int:
    return train(["clean", "--input", str(path), "--output", str(folder / "corpus"), "--jobs", "1"])


def refuse_by_bot(path: Path, folder: Path) -> int:
    return bot([str(path), "--speed", "60", "--url", "http://127.0.0.1:9"])


COMMANDS: list[Callable[[Path, Path], int]] = [
    refuse_by_load,
    refuse_by_embed,
    refuse_by_bench,
    refuse_by_clean,
    refuse_by_bot,
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused_with_a_reason_and_nothing_is_stored(
    garbage: str, command: Callable[[Path, Path], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is refused before a gateway is contacted: there is none here."""
    name, content, reason = GARBAGE[garbage]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(content)

    assert command(path, tmp_path) != 0
    assert reason in capsys.readouterr().err
    assert not [each for each in tmp_path.rglob("*") if each.is_file() and each != path]
