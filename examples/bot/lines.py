"""Splits what a recorder writes, chunk by chunk, into lines, for any format of recordings; the beginning decides which.

A recorder is still writing, so a chunk may end anywhere, even within a character; what is not whole yet waits for the
next chunk. What is no danmaku (gifts, scripts) is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from service.recordings import RecordingFeed, Row
from service.recordings.times import unix_time


@dataclass(frozen=True)
class Line:
    text: str
    at_s: float | None = None  # into the stream, or of posting: only differences count; None: it was not told


class Reader:
    """Bytes in, lines out. Who begins in the middle of a file gives its head, by which the format is known.

    Raises RecordingError where they cannot be a recording.
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
