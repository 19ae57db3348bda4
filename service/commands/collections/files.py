"""Reads recordings as items of a collection.

A danmaku becomes an item with `seconds` into the video and `posted_at`, a Unix time in seconds, in its metadata, where
the recording has them. Two kinds of files contain more: JSON with the fields that `POST /collections/NAME/danmaku`
takes, and tables with a column `text`, whose other columns become metadata, except those about writers.

Files are checked before the first item is sent, so a refused file leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.recordings import UNREADABLE, Options, RecordingError, open_recording
from service.recordings.base import Row as Danmaku
from service.recordings.folders import find_files, without_copies
from service.recordings.times import unix_time


@dataclass(frozen=True, slots=True)
class Row:
    path: Path
    number: int  # from 1, of rows that are or may have been danmaku
    item: str | dict[str, Any] | None
    error: str = ""  # why there is no item
    is_unreadable: bool = False  # it may have been a danmaku


@dataclass
class Files:
    paths: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # with the reason
    left_out: list[str] = field(default_factory=list)  # with the reason


def look_at(paths: Sequence[Path], options: Options) -> Files:
    """Returns the files that are read, those that are refused, and those in folders that are not recordings.

    Raises RecordingError if no file is read.
    """
    found = find_files(paths, options)
    once = without_copies(found.files)
    files = Files(left_out=[f"{path}: {reason}" for path, reason in (*found.left_out, *once.left_out)])
    for path in once.files:
        try:
            open_recording(path, options)
        except RecordingError as error:
            files.refused.append(str(error))
        else:
            files.paths.append(path)
    if not files.paths:
        raise RecordingError("; ".join(files.refused[:10]))
    return files


def rows_of(path: Path, options: Options) -> Iterator[tuple[Row, int]]:
    """Yields the rows of a file, and how many of its bytes have been read by then."""
    recording = open_recording(path, options)
    with path.open("rb") as source:
        for number, row in enumerate(recording.rows_from(source), 1):
            if row.text is None:
                yield Row(path, number, None, row.reason, row.reason in UNREADABLE), source.tell()
            else:
                yield Row(path, number, row.item or _item(row)), source.tell()


def _item(row: Danmaku) -> str | dict[str, Any]:
    assert row.text is not None
    posted_at = None if row.posted is None else unix_time(row.posted)
    metadata = {"seconds": row.seconds, "posted_at": posted_at}
    given = {name: value for name, value in metadata.items() if value is not None}
    return {"text": row.text, "metadata": given} if given else row.text
