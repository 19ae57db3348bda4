"""JSON lines: an object per danmaku, in fields that the user names, since no two recorders agree.

With a document field, rows in succession with one value are a document, sorted by time; without, a file is one
recording in the order of posting, split where its clock leaps. A time is seconds into the video or a Unix time in
seconds or milliseconds, as a number or a string of one, or a date as in ISO 8601.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from training.readers.base import TOO_LONG, Reader, ReaderSettings, Row, lines_of, most, seconds


def recognises(head: str) -> bool:
    lines = head.split("\n")
    return most(lines, sum(1 for line in lines if _object(line) is not None))


def rows(path: Path, settings: ReaderSettings) -> Iterator[Row]:
    is_known = False  # that the fields exist: a misspelt one must not become an empty corpus
    for line in lines_of(path):
        if line is None:
            yield TOO_LONG
            continue
        if not line.strip():
            continue
        fields = _object(line)
        if fields is None:
            yield Row(None)
            continue
        if not is_known:
            _require(path, fields, settings)
            is_known = True
        yield _row(fields, settings)


def _row(fields: dict[str, object], settings: ReaderSettings) -> Row:
    text = fields.get(settings.text_field)
    time_s = _seconds(fields.get(settings.time_field)) if settings.time_field else 0.0
    if not isinstance(text, str) or time_s is None:
        return Row(None)
    if settings.document_field:
        document = fields.get(settings.document_field)
        if not isinstance(document, str | int) or document == "":
            return Row(None)
        return Row(text, order_s=time_s, document=str(document))
    return Row(text, clock_s=time_s if settings.time_field else None)


def _require(path: Path, fields: dict[str, object], settings: ReaderSettings) -> None:
    for flag in ("text_field", "time_field", "document_field"):
        name = getattr(settings, flag)
        if name is not None and name not in fields:
            raise ValueError(
                f"{path}: no field {name!r} in its first object, which has {', '.join(map(repr, fields))}; "
                f"name the right one with --{flag.replace('_', '-')}"
            )


def _object(line: str) -> dict[str, object] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        time = float(value)
    except (ValueError, OverflowError):
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except (ValueError, OverflowError):
            return None
    return seconds(time) if math.isfinite(time) else None


READER = Reader("jsonl", (".jsonl", ".ndjson"), recognises, rows)
