"""Measures how many danmaku of one corpus also occur, literally, in another.

Danmaku repeat: most held-out streams contain danmaku that some training stream contains too, and a model may have
memorised those. The split is nevertheless by stream, because a model in use also meets new streams with the same 草. So
the share is reported, and `write_unseen` writes the corpus without these danmaku. Memory holds eight bytes per distinct
danmaku of either corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from training.corpus.files import hash_of, read_text, write_document
from training.files import replacing

MOSTLY = 0.95  # a document with at least this share of seen danmaku is the same stream again, and counts as seen


@dataclass(frozen=True)
class Overlap:
    """Counts of a corpus, and of its parts that also occur in the corpus named `other`."""

    other: str
    lines: int
    lines_in_other: int
    distinct_lines: int
    distinct_lines_in_other: int
    documents: int
    documents_in_other: int  # with at least 95 % of their danmaku in it

    def __str__(self) -> str:
        distinct = _share(self.distinct_lines_in_other, self.distinct_lines)
        return (
            f"{_share(self.lines_in_other, self.lines)} of the {self.lines:,} danmaku and "
            f"{distinct} of the {self.distinct_lines:,} distinct ones; "
            f"{self.documents_in_other:,} of the {self.documents:,} documents almost whole"
        )


def distinct_lines(texts: Path, *, chunk_lines: int = 1_000_000) -> np.ndarray:
    """Returns the sorted hashes of the distinct danmaku of a cleaned text, read in chunks: uint64 [n]."""
    found = np.empty(0, np.uint64)
    hashes = (hash_of(line) for document in read_text(texts) for line in document.lines)
    while len(chunk := np.fromiter(islice(hashes, chunk_lines), np.uint64)):
        found = np.union1d(found, chunk)
    return found


def overlap(texts: Path, seen: np.ndarray, other: str) -> Overlap:
    """Compares a cleaned text with the corpus named `other`, whose hashes of distinct danmaku are `seen`."""
    documents = documents_in_other = lines = lines_in_other = 0
    for document in read_text(texts):
        shared = int(_are_in(document.lines, seen).sum())
        documents += 1
        documents_in_other += shared >= MOSTLY * len(document.lines)
        lines += len(document.lines)
        lines_in_other += shared
    distinct = distinct_lines(texts)
    return Overlap(
        other=other,
        lines=lines,
        lines_in_other=lines_in_other,
        distinct_lines=len(distinct),
        distinct_lines_in_other=len(np.intersect1d(distinct, seen, assume_unique=True)),
        documents=documents,
        documents_in_other=documents_in_other,
    )


def write_unseen(texts: Path, seen: np.ndarray, output: Path) -> int:
    """Writes the cleaned text without the danmaku whose hashes are `seen`; returns how many documents remain."""
    documents = 0
    with replacing(output) as file:
        for document in read_text(texts):
            are_seen = _are_in(document.lines, seen)
            lines = [line for line, is_seen in zip(document.lines, are_seen, strict=True) if not is_seen]
            if lines:
                write_document(file, lines)
                documents += 1
    return documents


def _are_in(lines: list[str], seen: np.ndarray) -> np.ndarray:
    hashes = np.fromiter(map(hash_of, lines), np.uint64, len(lines))
    places = np.searchsorted(seen, hashes)
    places[places == len(seen)] = 0
    return seen[places] == hashes if len(seen) else np.zeros(len(lines), bool)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"
