"""JSON lines: an object per danmaku, in fields that the user names, since no two recorders agree.

With a document field, rows in succession with one value are a document, sorted by time; without, a file is one
recording in the order of posting, split where its clock leaps. A time is seconds into the video or a Unix time in
seconds or milliseconds, as a number or a string of one, or a date as in ISO 8601.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from training.corpus.readers.base import TOO_LONG, Reader, ReaderSettings, Row, lines_of, most, seconds

HALF = re.compile("[\ud800-\udfff]")


def recognises(head: str) -> bool:
    lines = head.split("\n")
    return most(lines, sum(1 for line in lines if _object(line) is not None))


def rows(path: Path, settings: ReaderSettings) -> Iterator[Row]:
    first: list[str] | None = None  # object's fields
    names = {flag: getattr(settings, flag) for flag in ("text_field", "time_field", "document_field")}
    wanted = {flag: name for flag, name in names.items() if name is not None}
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
        for flag in [flag for flag, name in wanted.items() if name in fields]:
            del wanted[flag]
        first = first or [*fields]
        yield _row(fields, settings)
    if first is not None and wanted:  # a misspelt field must not become an empty corpus
        flag, name = next(iter(wanted.items()))
        raise ValueError(
            f"{path}: no object has a field {name!r}; the first has {', '.join(map(repr, first))}: "
            f"name the right one with --{flag.replace('_', '-')}"
        )


def _row(fields: dict[str, object], settings: ReaderSettings) -> Row:
    text = fields.get(settings.text_field)
    time_s = _seconds(fields.get(settings.time_field)) if settings.time_field else 0.0
    if not isinstance(text, str) or time_s is None:
        return Row(None)
    if settings.document_field:
        document = fields.get(settings.document_field)
        if not isinstance(document, str | int) or document == "":
            return Row(None)
        return Row(_whole(text), order_s=time_s, document=str(document))
    return Row(_whole(text), clock_s=time_s if settings.time_field else None)


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
    return HALF.sub("\ufffd", text)


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
