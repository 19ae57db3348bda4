"""Reads any recording as plain text, one danmaku per line in UTF-8, for users that need only texts in order.

Plain text is unchanged, including blank lines and lines that are not UTF-8, so row n of a result is line n of the file.
In other recordings, line n is the nth danmaku in the order of the file; line breaks in a danmaku become spaces.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from service.recordings.base import UNREADABLE, Options, RecordingError, Row, describe_drops
from service.recordings.decoding import CHUNK_BYTES, decode
from service.recordings.recording import READ, RecordingFeed, open_recording

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BREAKS = re.compile(r"\s*[\r\n]+\s*")


class Lines(io.RawIOBase):
    """A binary stream of lines that counts what was dropped. Use it through `buffered`."""

    def __init__(
        self, parts: Iterable[bytes], dropped: Counter[str] | None = None, file: BinaryIO | None = None
    ) -> None:
        super().__init__()
        self._parts, self._rest, self._file = iter(parts), b"", file
        self.dropped: Counter[str] = Counter() if dropped is None else dropped

    @property
    def unreadable(self) -> int:
        """The number of rows that may have been danmaku but could not be read."""
        return sum(self.dropped[reason] for reason in UNREADABLE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while not self._rest:
            try:
                self._rest = next(self._parts)
            except StopIteration:
                return 0
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def buffered(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(self, CHUNK_BYTES))

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()


def open_lines(path: Path, options: Options | None = None) -> tuple[BinaryIO, Lines | None]:
    """Returns a stream of lines, which the caller closes, and counts of what was dropped unless the file is plain text.

    Raises RecordingError for a file that is refused or has no danmaku, OSError for one that cannot be opened.
    """
    recording = open_recording(path, options)
    if recording.format == "text":
        if not recording.head.strip("\ufeff \t\r\n"):
            _first_danmaku(str(path), recording.rows(), Counter())
        file = path.open("rb")
        if recording.encoding.name.startswith("utf-8"):
            file.seek(len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0)
            return file, None
        lines = Lines((part.encode("utf-8", "replace") for part in decode(file, recording.encoding)), file=file)
        return lines.buffered(), lines
    dropped: Counter[str] = Counter()
    rows = recording.rows()
    first = _first_danmaku(str(path), rows, dropped)
    lines = Lines(_encode(chain([first], rows), dropped), dropped)
    return lines.buffered(), lines


def open_pipe(source: BinaryIO, name: str, options: Options | None = None) -> tuple[BinaryIO, Lines | None]:
    """Does the same for a stream that cannot be read twice, and recognises it by its beginning.

    It waits for the first line only, so a stream can be read while it is being written.
    """
    feed = RecordingFeed(name, options)
    head, first_rows, is_over = b"", list[Row](), False
    while feed.format is None and not is_over:
        chunk = _read_some(source)
        is_over = not chunk
        head += chunk
        first_rows += feed.feed(chunk, is_last=is_over)
    if feed.format is None:
        _first_danmaku(name, iter(first_rows), Counter())
    if feed.format in (None, "text"):
        if feed.encoding is None or feed.encoding.name.startswith("utf-8"):
            parts: Iterator[bytes] = chain([head.removeprefix(codecs.BOM_UTF8)], _chunks(source))
            return Lines(parts).buffered(), None
        decoder = feed.encoding.decoder()
        parts = (decoder.decode(part).encode("utf-8", "replace") for part in chain([head], _chunks(source)))
        return Lines(parts).buffered(), None
    dropped: Counter[str] = Counter()

    def rows() -> Iterator[Row]:
        yield from first_rows
        if not is_over:
            for chunk in _chunks(source):
                yield from feed.feed(chunk)
            yield from feed.feed(b"", is_last=True)

    every = rows()
    first = _first_danmaku(name, every, dropped)
    lines = Lines(_encode(chain([first], every), dropped), dropped)
    return lines.buffered(), lines


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := _read_some(source):
        yield chunk


def _read_some(source: BinaryIO) -> bytes:
    """Returns the bytes that have arrived without waiting for a whole chunk; empty at the end."""
    return cast(io.BufferedReader, source).read1(CHUNK_BYTES)


def _encode(rows: Iterable[Row], dropped: Counter[str]) -> Iterator[bytes]:
    for row in rows:
        if row.text is None:
            dropped[row.reason] += 1
        else:
            yield (BREAKS.sub(" ", row.text) + "\n").encode("utf-8", "replace")


def _first_danmaku(name: str, rows: Iterator[Row], dropped: Counter[str]) -> Row:
    """Returns the first danmaku and counts what is before it. Raises RecordingError if there is none."""
    for row in rows:
        if row.text is not None:
            return row
        dropped[row.reason] += 1
    raise RecordingError(f"{name} contains no danmaku ({describe_drops(dropped)}); {READ}")
