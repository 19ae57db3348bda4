"""Any recording as plain text: a danmaku a line, UTF-8, for what needs nothing but texts in their order.

Plain text stays as it is, so that row n of what is made of it is line n of the file, blank lines and lines that are not
UTF-8 included. Of any other recording, line n is the nth danmaku in the order of the file; line breaks in a danmaku
become spaces.
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

from service.recordings.base import UNREADABLE, Options, RecordingError, Row
from service.recordings.decoding import CHUNK_BYTES, decode
from service.recordings.recording import READ, RecordingFeed, open_recording

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BREAKS = re.compile(r"\s*[\r\n]+\s*")


class Lines(io.RawIOBase):
    """A binary stream of lines, and what was dropped on the way. Use it through `buffered`."""

    def __init__(
        self, parts: Iterable[bytes], dropped: Counter[str] | None = None, file: BinaryIO | None = None
    ) -> None:
        super().__init__()
        self._parts, self._rest, self._file = iter(parts), b"", file
        self.dropped: Counter[str] = Counter() if dropped is None else dropped

    @property
    def unreadable(self) -> int:
        """How many rows may have been danmaku, and could not be read."""
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
    """The lines of a file, from a stream that the caller closes; and, unless it is plain text, what was dropped.

    Raises RecordingError for a file that is not read or holds no danmaku, OSError for one that cannot be opened.
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
    """Does the same for a stream that cannot be read twice, and recognises it by what comes first.

    It waits for no more than the first line, so that a stream that is being written is read as it is written.
    """
    feed = RecordingFeed(name, options)
    head, begun, is_over = b"", list[Row](), False
    while feed.format is None and not is_over:
        chunk = _read_some(source)
        is_over = not chunk
        head += chunk
        begun += feed.feed(chunk, is_last=is_over)
    if feed.format is None:
        _first_danmaku(name, iter(begun), Counter())
    if feed.format in (None, "text"):
        if feed.encoding is None or feed.encoding.name.startswith("utf-8"):
            parts: Iterator[bytes] = chain([head.removeprefix(codecs.BOM_UTF8)], _chunks(source))
            return Lines(parts).buffered(), None
        decoder = feed.encoding.decoder()
        parts = (decoder.decode(part).encode("utf-8", "replace") for part in chain([head], _chunks(source)))
        return Lines(parts).buffered(), None
    dropped: Counter[str] = Counter()

    def rows() -> Iterator[Row]:
        yield from begun
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
    """Returns what has come, without waiting for a whole chunk; nothing at the end."""
    return cast(io.BufferedReader, source).read1(CHUNK_BYTES)


def _encode(rows: Iterable[Row], dropped: Counter[str]) -> Iterator[bytes]:
    for row in rows:
        if row.text is None:
            dropped[row.reason] += 1
        else:
            yield (BREAKS.sub(" ", row.text) + "\n").encode("utf-8", "replace")


def _first_danmaku(name: str, rows: Iterator[Row], dropped: Counter[str]) -> Row:
    """The first danmaku; what is before it is counted. Raises RecordingError if there is none."""
    for row in rows:
        if row.text is not None:
            return row
        dropped[row.reason] += 1
    told = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common(5)) or "it is empty"
    raise RecordingError(f"{name} holds no danmaku ({told}); {READ}")
