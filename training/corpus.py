"""Reads danmaku from the files people have, one document (all danmaku of one video or stream) at a time.

Whatever the format, a reader yields `Document`s in an order that depends only on the documents' names: sorted
by a hash, so that neighbouring documents are unrelated, and a consumer may cut the stream into random samples
without holding it in memory. Nothing about the people who wrote the danmaku passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

# text,seconds into the video,posted at. Nothing is quoted, so the text may hold commas: anchored on the
# right.
CSV_ROW = re.compile(r"(.*),(\d+(?:\.\d+)?),(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.DOTALL)


@dataclass(frozen=True)
class Document:
    """All danmaku of one video or stream, in the order in which viewers see them."""

    id: str
    lines: list[str]
    malformed: int = 0  # rows of the file that are no danmaku


def find_documents(paths: list[Path]) -> tuple[list[Path], int]:
    """The CSV files under the paths, in the order of a hash of their names; and how many were left out.

    Left out is a file with the name of an earlier one: the same video again, which would stand on both sides
    of a split. A file reached by two of the paths is one file.
    """
    files: dict[str, Path] = {}
    seen: set[Path] = set()
    duplicates = 0
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for file in sorted(path.rglob("*.csv")) if path.is_dir() else [path]:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            duplicates += file.stem in files
            files.setdefault(file.stem, file)
    if not files:
        raise FileNotFoundError(f"no .csv file under {', '.join(map(str, paths))}: expected one file per video")
    return [files[name] for name in sorted(files, key=hash_of)], duplicates


def read_csv(path: Path) -> Document:
    """One video: rows `text,seconds into the video,posted at`, sorted by the second column."""
    rows, malformed = [], 0
    # Only \n ends a row: splitlines would also cut at the exotic separators that viewers paste.
    # A byte order mark, as spreadsheets write it, is no danmaku.
    for line in path.read_bytes().decode("utf-8-sig", errors="replace").split("\n"):
        match = CSV_ROW.fullmatch(line.removesuffix("\r"))
        if match:
            rows.append((float(match[2]), match[1]))
        elif line.strip():
            malformed += 1
    rows.sort(key=lambda row: row[0])  # stable: danmaku of the same moment stay in the order of the file
    return Document(path.stem, [text for _, text in rows], malformed)


def read_text(path: Path) -> Iterator[Document]:
    """The recipe's plain text: one danmaku a line, a blank line between documents, named by their number."""
    lines: list[str] = []
    count = 0
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if text := line.strip():
                lines.append(text)
            elif lines:
                yield Document(str(count), lines)
                lines, count = [], count + 1
    if lines:
        yield Document(str(count), lines)


def hash_of(name: str) -> int:
    """A 64-bit hash of a document's name that is the same in every process and year."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
