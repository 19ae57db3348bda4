"""A corpus: the files that hold danmaku, in one order, and the documents in each; and what `clean` made of them.

The order depends on the files' names only: sorted by a hash, so that neighbouring documents are unrelated, and a
consumer may cut the stream into random samples without holding it in memory. A shard is a stretch of that order, so
shards one after another are the whole. Nothing about the people who wrote the danmaku passes through here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TextIO

from training.corpus.readers import FORMATS, SUFFIXES, plain_text, reader_of
from training.corpus.readers.base import Document, ReaderSettings, Tally, documents, name_of

SPLITS = ("train", "heldout")
Counts = Counter[tuple[str, ...]]  # by their place in the report
SHARD_REPORT = re.compile(r"report-(\d{5})-of-(\d{5})\.json")


@dataclass(frozen=True)
class Source:
    """A file of danmaku, and what it is known by."""

    name: str
    path: Path
    num_bytes: int


@dataclass(frozen=True)
class Shard:
    """The `index`th of `count` parts of a corpus, counted from 0."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count <= 10**5:
            raise ValueError(f"shard {self}: the first number must be from 0 to one below the second")

    @classmethod
    def parse(cls, text: str) -> Shard:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None:
            raise ValueError(f"shard {text!r}: expected the shard and their number, as in 0/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        return f"-{self.index:05}-of-{self.count:05}"

    def has(self, name: str) -> bool:
        return hash_of(name) * self.count >> 64 == self.index


def find_sources(
    paths: list[Path], format_name: str | None = None, shard: Shard | None = None
) -> tuple[list[Source], int]:
    """The files under the paths, in the order of a hash of their names; and how many were left out.

    Left out is a file with the name of an earlier one: the same video again, which would stand on both sides of a
    split. A file reached by two of the paths is one file.
    """
    suffixes = tuple(FORMATS[format_name].suffixes if format_name else SUFFIXES)
    files: dict[str, Path] = {}
    seen: set[Path] = set()
    duplicates = 0
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for file in _under(path, suffixes):
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            name = name_of(file)
            if shard is None or shard.has(name):
                duplicates += name in files
                files.setdefault(name, file)
    if not seen:
        raise FileNotFoundError(
            f"no {' or '.join(sorted(suffixes))} file under {', '.join(map(str, paths))}: "
            "expected a file per video or stream"
        )
    names = sorted(files, key=hash_of)
    return [Source(name, files[name], files[name].stat().st_size) for name in names], duplicates


def read_text(paths: Path | list[Path]) -> Iterator[Document]:
    """The documents of cleaned text, file after file."""
    settings = ReaderSettings()
    for path in [paths] if isinstance(paths, Path) else paths:
        yield from documents(path.stem, plain_text.rows(path, settings), settings, Tally())


def text_files(directory: Path, split: str) -> list[Path]:
    """The files with the cleaned text of a split, of a corpus that is whole: one, or one of every shard."""
    return [directory / f"{split}{suffix}.txt" for suffix in _suffixes(directory)]


def kept_counts(directory: Path, split: str) -> dict[str, int]:
    """How many documents, lines and tokens of a split there are; those that are 0 may be left out."""
    total: dict[str, int] = {}
    for suffix in _suffixes(directory):
        report = json.loads((directory / f"report{suffix}.json").read_text(encoding="utf-8"))
        for name, count in report["kept"][split].items():
            total[name] = total.get(name, 0) + count
    return total


def hash_of(name: str) -> int:
    """A 64-bit hash of a document's name that is the same in every process and year."""
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _under(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files to read; where two of a folder have one name, the one in the better format comes first."""
    if not path.is_dir():
        return [path]
    files = [file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.name != "vocab.txt"]
    return sorted(files, key=lambda file: (file.parent, SUFFIXES[file.suffix.lower()], file.name))


def _suffixes(directory: Path) -> list[str]:
    """What stands between a split's name and `.txt`. The reports vouch for the texts: written after them."""
    shards = {match[0]: match for path in directory.glob("report-*") if (match := SHARD_REPORT.fullmatch(path.name))}
    counts = sorted({int(match[2]) for match in shards.values()})
    if (directory / "report.json").exists():
        counts.insert(0, 1)
    if not counts:
        raise FileNotFoundError(f"no report.json in {directory}: make a cleaned corpus with `danmaku-train clean`")
    if len(counts) > 1 or ((directory / "report.json").exists() and shards):
        raise ValueError(f"{directory} holds several cleaned corpora, of {counts} shards: keep the files of one")
    if not shards:
        return [""]
    expected = [Shard(index, counts[0]) for index in range(counts[0])]
    missing = [shard for shard in expected if f"report{shard.suffix}.json" not in shards]
    if missing:
        named = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        raise FileNotFoundError(
            f"{len(missing)} of the {counts[0]} shards are missing in {directory}: {named}; "
            f"make each with `danmaku-train clean --shard {missing[0]}`"
        )
    return [shard.suffix for shard in expected]


def read(source: Source, format_name: str | None, settings: ReaderSettings, counts: Counts) -> Iterator[Document]:
    """The documents of a file, whose rows and drops are counted once they have been read."""
    reader = reader_of(source.path, format_name)
    if reader is None:
        counts["dropped_files", "of no known format"] += 1
        return
    tally, number = Tally(), 0
    for document in documents(source.name, reader.rows(source.path, settings), settings, tally):
        number += 1
        yield document
    counts.update({("dropped", reason): count for reason, count in tally.dropped.items()})
    for unit, count in (("files", 1), ("documents", number), ("lines", tally.rows)):
        counts[f"{unit}_read",] += count
        counts["formats", reader.name, unit] += count
    if not number:
        counts["dropped_files", "without danmaku"] += 1


def write_document(file: TextIO, lines: list[str]) -> None:
    """Appends a document as `read_text` reads it."""
    file.write("\n".join(lines) + "\n\n")


def one_line(text: str) -> str:
    """The text with every run of whitespace, exotic line separators included, as one space."""
    return " ".join(text.split())


def split_of(document_id: str, heldout: float) -> str:
    """The split a document belongs to, now and on every later run."""
    return "heldout" if hash_of(f"split {document_id}") < heldout * 2**64 else "train"
