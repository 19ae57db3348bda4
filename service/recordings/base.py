"""Defines the rows that parsers of recordings yield: each is one danmaku, or the reason why it is not one.

Names, numbers and hashes of writers do not leave the parsers: a `Row` has no field for them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from service.errors import ConfigurationError

MAX_ROW = 1 << 20  # characters
HEAD_BYTES = 1 << 16  # of a file, by which its encoding is recognised …
HEAD_CHARACTERS = 1 << 14  # … and its format
HEAD_LINES = 64  # … and, among these, its majority
MAX_VIDEO_S = 31 * 24 * 3600.0  # no video is longer; Bilibili keeps milliseconds in 31 bits, which is 25 days

MALFORMED = "malformed row"
NOT_TEXT = "not text"
SCRIPT = "script (mode 7, 8 or 9)"
SUBTITLE = "subtitle or script (pool 1 or 2)"
OTHER = "other message"
UNREADABLE = (MALFORMED, NOT_TEXT)  # reasons for lines that may have been danmaku; with all others they were not


class RecordingError(ConfigurationError, ValueError):
    """The error for a file that is refused as a whole; the message says why, and what is expected."""


@dataclass(frozen=True)
class Options:
    """Options that files do not determine; None leaves the decision to the file."""

    format: str | None = None
    encoding: str | None = None
    text_column: str | None = None  # CSV: name or number from 1; JSON: field
    time_column: str | None = None  # … seconds into the video, or the time of posting
    document_field: str | None = None  # JSON: the field with the name of the video or stream
    session_gap_s: float = 600.0  # live: a longer silence ends a document
    keep_items: bool = False  # rows also have the fields of `POST /collections/NAME/danmaku`, if the file has them

    def __post_init__(self) -> None:
        if not self.session_gap_s > 0:
            raise ValueError(f"invalid session_gap_s: {self.session_gap_s}; expected more than 0")


class Style(NamedTuple):
    """How a player draws a danmaku."""

    mode: int = 1  # 1 to 3 from right to left, 4 at the bottom, 5 at the top, 6 from left to right
    size: int = 25
    colour: int = 0xFFFFFF


class Row(NamedTuple):
    """One danmaku, or the reason why this part of the file is not one."""

    text: str | None  # None: not a danmaku
    reason: str = MALFORMED  # … because
    seconds: float | None = None  # into the video
    posted: float | str | None = None  # Unix time, or a date as the file has it: see `times.unix_time`
    clock_s: float | None = None  # live: a jump of this clock ends a document
    document: str = ""  # a change of this name also ends one
    item: dict[str, Any] | None = None  # with `keep_items`
    style: Style | None = None  # XML


TOO_LONG = Row(None, "longer than a MiB")
NOT_TEXT_ROW = Row(None, NOT_TEXT)
MALFORMED_ROW = Row(None)


class Parser(Protocol):
    """Parses one format. Decoded text is fed to it, cut anywhere; `close` is called once, at the end."""

    def feed(self, text: str) -> Iterator[Row]: ...
    def close(self) -> Iterator[Row]: ...


class LineParser:
    r"""The base of parsers of lines, which implement `line`.

    Only \n ends a line: str.splitlines would also cut at the exotic separators that viewers paste.
    """

    def __init__(self, undecodable: re.Pattern[str] | None = None) -> None:
        """`undecodable` finds the replacements of bytes that could not be decoded; None if there were none."""
        self._undecodable = undecodable
        self._rest = ""
        self._is_too_long = False

    def feed(self, text: str) -> Iterator[Row]:
        *lines, self._rest = (self._rest + text).split("\n")
        if self._is_too_long and lines:
            self._is_too_long = False
            del lines[0]  # the end of the line that was reported
        if lines and len(lines[0]) >= MAX_ROW:
            del lines[0]
            yield TOO_LONG
        yield from self.lines(lines)
        if len(self._rest) >= MAX_ROW:
            self._rest = ""
            if not self._is_too_long:
                self._is_too_long = True
                yield TOO_LONG

    def close(self) -> Iterator[Row]:
        if self._rest:
            yield from self.feed("\n")

    def lines(self, lines: list[str]) -> Iterator[Row]:
        """Yields the rows of complete lines."""
        undecodable, line_rows = self._undecodable, self.line
        for line in lines:
            if undecodable is not None and undecodable.search(line):
                yield NOT_TEXT_ROW
            else:
                yield from line_rows(line[:-1] if line.endswith("\r") else line)

    def line(self, line: str) -> Iterator[Row] | tuple[Row, ...]:
        """Yields the rows of one line, without its line feed."""
        raise NotImplementedError


def is_most(count: int, lines: list[str]) -> bool:
    """Returns whether this number is more than half of the lines that are not blank."""
    return count * 2 > sum(1 for line in lines if line.strip())


def describe_drops(dropped: Counter[str]) -> str:
    """Returns the most frequent reasons with their counts, for an error about a file without danmaku."""
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common(5)) or "it is empty"
