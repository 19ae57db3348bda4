"""The files of a corpus: recordings in one fixed order, and the text that `clean` writes from them.

The order depends on the names of the files only. It is that of a hash, so neighbouring documents are unrelated, and a
consumer can cut the stream into random samples without holding it in memory. A shard is a range of that order; shards
joined in order are the whole corpus. Nothing about the people who wrote the danmaku passes through here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, TextIO

from service.recordings import Options, RecordingError, name_of, open_recording
from service.recordings.documents import Document, Tally, documents
from service.recordings.folders import find_files

SPLITS = ("train", "heldout")
Counts = Counter[tuple[str, ...]]  # keyed by place in the report
SHARD_REPORT = re.compile(r"report-(\d{5})-of-(\d{5})\.json")


@dataclass(frozen=True)
class Source:
    """A file of danmaku; `name` identifies it in the corpus."""

    name: str
    path: Path
    num_bytes: int


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` parts of a corpus, counted from 0."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count <= 10**5:
            raise ValueError(f"invalid shard: {self}; expected I/N with I from 0 to N - 1")

    @classmethod
    def parse(cls, text: str) -> Shard:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None:
            raise ValueError(f"invalid shard: {text!r}; expected I/N, such as 0/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        return f"-{self.index:05}-of-{self.count:05}"

    def has(self, name: str) -> bool:
        return hash_of(name) * self.count >> 64 == self.index


class Sources(NamedTuple):
    """The recordings under some paths."""

    sources: list[Source]  # in the order of a hash of their names
    duplicates: int  # files with the name of an earlier one
    left_out: list[tuple[Path, str]]  # files that are not recordings, with the reason


def find_sources(paths: list[Path], format_name: str | None = None, shard: Shard | None = None) -> Sources:
    """Finds the recordings under the paths. A file reached by two of the paths is one file.

    A file with the name of an earlier one is the same video again and could be on both sides of a split.
    """
    found = find_files(paths, Options(format=format_name))
    files: dict[str, Path] = {}
    duplicates = 0
    for file in found.files:
        name = name_of(file)
        if shard is None or shard.has(name):
            duplicates += name in files
            files.setdefault(name, file)
    names = sorted(files, key=hash_of)
    sources = [Source(name, files[name], files[name].stat().st_size) for name in names]
    return Sources(sources, duplicates, found.left_out)


def read_text(paths: Path | list[Path]) -> Iterator[Document]:
    """Yields the documents of cleaned text, file after file."""
    options = Options(format="text")
    for path in [paths] if isinstance(paths, Path) else paths:
        yield from documents(path.stem, open_recording(path, options).rows(), options, Tally())


def text_files(directory: Path, split: str) -> list[Path]:
    """Returns the files with the cleaned text of a split: one, or one per shard.

    Raises FileNotFoundError or ValueError for a corpus that is not complete.
    """
    return [directory / f"{split}{suffix}.txt" for suffix in _suffixes(directory)]


def kept_counts(directory: Path, split: str) -> dict[str, int]:
    """Returns the numbers of documents, lines and tokens of a split; numbers that are 0 may be missing."""
    total: dict[str, int] = {}
    for suffix in _suffixes(directory):
        report = json.loads((directory / f"report{suffix}.json").read_text(encoding="utf-8"))
        for name, count in report["kept"][split].items():
            total[name] = total.get(name, 0) + count
    return total


def hash_of(name: str) -> int:
    """Returns a 64-bit hash of a document's name that never changes."""
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _suffixes(directory: Path) -> list[str]:
    """Returns the part of the file names between the split and `.txt`; a report is written after its texts."""
    shards = {match[0]: match for path in directory.glob("report-*") if (match := SHARD_REPORT.fullmatch(path.name))}
    counts = sorted({int(match[2]) for match in shards.values()})
    if (directory / "report.json").exists():
        counts.insert(0, 1)
    if not counts:
        raise FileNotFoundError(f"no report.json in {directory}; expected a folder written by `danmaku-train clean`")
    if len(counts) > 1 or ((directory / "report.json").exists() and shards):
        raise ValueError(f"several corpora in {directory}, of {counts} shards; expected the files of one")
    if not shards:
        return [""]
    expected = [Shard(index, counts[0]) for index in range(counts[0])]
    missing = [shard for shard in expected if f"report{shard.suffix}.json" not in shards]
    if missing:
        named = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        raise FileNotFoundError(
            f"missing {len(missing)} of the {counts[0]} shards in {directory}: {named}; "
            f"create each of them with `danmaku-train clean --shard {missing[0]}`"
        )
    return [shard.suffix for shard in expected]


def read(source: Source, format_name: str | None, settings: Options, counts: Counts) -> Iterator[Document]:
    """Yields the documents of a file; adds its rows and dropped lines to `counts` at the end."""
    tally, number = Tally(), 0
    try:
        recording = open_recording(source.path, replace(settings, format=format_name))
        for document in documents(source.name, recording.rows(), settings, tally):
            number += 1
            yield document
    except RecordingError as error:
        counts["refused", str(error)] += 1
        counts["dropped_files", "refused"] += 1
        return
    counts.update({("dropped", reason): count for reason, count in tally.dropped.items()})
    for unit, count in (("files", 1), ("documents", number), ("lines", tally.rows)):
        counts[f"{unit}_read",] += count
        counts["formats", recording.format, unit] += count
    if not number:
        counts["dropped_files", "without danmaku"] += 1


def write_document(file: TextIO, lines: list[str]) -> None:
    """Appends a document in the format that `read_text` reads."""
    file.write("\n".join(lines) + "\n\n")


def one_line(text: str) -> str:
    """Returns the text with each run of whitespace, including exotic line separators, replaced by one space."""
    return " ".join(text.split())


def split_of(document_id: str, heldout: float) -> str:
    """Returns the split of a document, the same on every run and in every version."""
    return "heldout" if hash_of(f"split {document_id}") < heldout * 2**64 else "train"
