"""Files of danmaku that go into a collection: what stands in each, by the end of its name.

    .ndjson .jsonl   a JSON string or object a line, as `POST /collections/NAME/danmaku` takes them
    .csv             with a header that names `text`; or recorded danmaku, `text,seconds,posted at`, where commas in the
                     text are not quoted, and of which seconds and posted_at become metadata
    any other        a danmaku a line

A row is an item or the reason why it is none, so that a line that cannot be read costs nobody the rest. Recordings with
people in them (XML and the like) are `danmaku-train clean`'s to read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from service.errors import ConfigurationError

SUFFIXES = (".txt", ".csv", ".ndjson", ".jsonl")  # what of a folder is read
MAX_LINE_BYTES = 2**20
NUMBERS = ("count", "ttl_s", "expires_at")  # columns that, as id and text, are not metadata


@dataclass(frozen=True, slots=True)
class Row:
    path: Path
    line: int  # from 1
    item: str | dict[str, Any] | None
    error: str = ""


def files_in(paths: Sequence[Path]) -> list[Path]:
    """The files, and those of the folders in order of their names. Raises ConfigurationError if there is none."""
    found = []
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"{path} does not exist")
        inside = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in SUFFIXES and each.is_file()]
        if path.is_dir() and not inside:
            raise ConfigurationError(f"{path} holds no file that ends in {', '.join(SUFFIXES)}")
        found += inside if path.is_dir() else [path]
    return found


def rows_of(path: Path, source: BinaryIO) -> Iterator[Row]:
    """Raises ConfigurationError at a line that is longer than any danmaku."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        head = source.readline(MAX_LINE_BYTES).decode("utf-8-sig", "replace")
        source.seek(0)
        columns = [column.strip().lower() for column in next(csv.reader([head]), [])]
        if "text" in columns:
            yield from _table(path, source, columns)
            return
    read = {".ndjson": orjson.loads, ".jsonl": orjson.loads, ".csv": _recorded}.get(suffix, bytes.decode)
    number = 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ConfigurationError(f"{path}: line {number} is longer than {MAX_LINE_BYTES} bytes")
        try:
            yield Row(path, number, read(line.rstrip(b"\r\n")))
        except ValueError as error:
            yield Row(path, number, None, str(error))


def _recorded(line: bytes) -> dict[str, Any]:
    try:
        text, seconds, posted_at = line.decode().rsplit(",", 2)
        return {"text": text, "metadata": {"seconds": float(seconds), "posted_at": posted_at}}
    except ValueError:
        raise ValueError("expected text,seconds,posted at; or a header that names a column `text`") from None


def _table(path: Path, source: BinaryIO, columns: Sequence[str]) -> Iterator[Row]:
    text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text)
    next(reader)
    line = reader.line_num + 1
    for values in reader:
        yield _row(path, line, columns, values)
        line = reader.line_num + 1
    text.detach()


def _row(path: Path, line: int, columns: Sequence[str], values: Sequence[str]) -> Row:
    if len(values) != len(columns):
        return Row(path, line, None, f"{len(values)} columns, where the header has {len(columns)}")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return Row(path, line, None, "the row is not UTF-8")
    row = {column: value for column, value in zip(columns, values, strict=True) if value}
    item: dict[str, Any] = {"text": row.pop("text", "")}
    if "id" in row:
        item["id"] = row.pop("id")
    for column, value in row.items():
        (item if column in NUMBERS else item.setdefault("metadata", {}))[column] = _number(value)
    return Row(path, line, item)


def _number(value: str) -> str | int | float:
    """A number where it is written as JSON writes it, so that a filter can compare it: "007" stays a text."""
    try:
        number = orjson.loads(value)
    except ValueError:
        return value
    return number if isinstance(number, int | float) and not isinstance(number, bool) else value
