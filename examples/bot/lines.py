"""Splits what a recorder writes, chunk by chunk, into lines, for any format of recordings; the beginning decides which.

A recorder is still writing, so a chunk may end anywhere, even within a character; incomplete data waits for the next
chunk. Anything that is not a danmaku (gifts, scripts) is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from service.recordings import RecordingFeed, Row
from service.recordings.times import unix_time


@dataclass(frozen=True)
class Line:
    text: str
    at_s: float | None = None  # into the stream, or of posting: only differences count; None: unknown


class Reader:
    """Turns bytes into lines. To start in the middle of a file, pass its head, which determines the format.

    Raises RecordingError if the bytes cannot be a recording.
    """

    def __init__(self, name: str = "standard input", head: bytes = b"") -> None:
        self._feed = RecordingFeed(name, head=head)

    def feed(self, chunk: bytes, *, is_last: bool = False) -> Iterator[Line]:
        return lines_of(self._feed.feed(chunk, is_last=is_last))


def lines_of(rows: Iterable[Row]) -> Iterator[Line]:
    for row in rows:
        if row.text is not None:
            at_s = row.seconds
            if at_s is None and row.posted is not None:
                at_s = unix_time(row.posted)
            yield Line(row.text, at_s)
