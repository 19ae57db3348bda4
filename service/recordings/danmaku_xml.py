"""Parses Bilibili's XML of a video and its imitations: blrec, BililiveRecorder, biliup, DanmakuFactory, dandanplay.

    <d p="490.19100,1,25,16777215,1584268892,0,a16fe0dd,29950852386521095">text</d>

`p` is: seconds into the video, mode, size, colour, time of posting (milliseconds in the first two recorders), pool,
user, id, and lately a weight. Two others look alike:

    <d p="5275435951194114,0,302181,1,25,16777215,1537204270,0,abcdef01">   XML 2.0, whose root has an <oid>: id,
                        attributes, milliseconds into the video, mode, size, colour, time of posting, pool, user
    <d p="3.2,1,16777215,0">                                                dandanplay: seconds, mode, colour, user

The time of posting may be empty, zero, or the same in all rows, since videos do not need it. Modes 7 to 9 are scripts
and drawings; pool 1 is subtitles, pool 2 scripts.

A video is sorted by its seconds. A live recording keeps its order, and is split where the time of posting jumps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from service.recordings.base import (
    MALFORMED,
    MALFORMED_ROW,
    MAX_VIDEO_S,
    NOT_TEXT_ROW,
    OTHER,
    SCRIPT,
    SUBTITLE,
    Row,
    Style,
)
from service.recordings.lenient_xml import Child, LenientXml
from service.recordings.times import number, unix_seconds

P = re.compile(r"""<d\s(?:[^<>]*?\s)?p=["']([^"'<>]*)["']""")
LATE_S = 60.0  # how late an earlier danmaku may reach the recorder
MAX_TAG = 1 << 16  # characters of a start tag: recorders keep the raw message in an attribute
BACK_S = 3.0  # how far the clock of a recording may step back
NOT_DANMAKU = {
    "gift": "gift",
    "guard": "gift",
    "toast": "gift",
    "sc": "super chat",
    "s": "super chat or gift",  # biliup's, whose attribute `type` says which
    "o": OTHER,
}


class DanmakuXml:
    def __init__(self, name: str, undecodable: re.Pattern[str] | None, *, is_live: bool) -> None:
        self._xml = LenientXml(name, "d")
        self._undecodable = undecodable
        self._is_live = is_live
        self._is_2_0 = False

    def feed(self, text: str) -> Iterator[Row]:
        if self._undecodable is not None:
            text = self._undecodable.sub("\ufffd", text)
        for child in self._xml.feed(text):
            yield from self._row(child)

    def close(self) -> Iterator[Row]:
        for child in self._xml.close():
            yield from self._row(child)

    def _row(self, child: Child) -> tuple[Row, ...]:
        if child.name == "d":
            if self._undecodable is not None and "\ufffd" in child.text:
                return (NOT_TEXT_ROW,)
            return (self._danmaku(child),)
        if child.name in NOT_DANMAKU:
            return (Row(None, NOT_DANMAKU[child.name]),)
        if child.name == "oid":
            self._is_2_0 = True
        return () if child.name else (Row(None, child.text),)

    def _danmaku(self, child: Child) -> Row:
        fields = read_fields(child.attributes.get("p", ""), is_2_0=self._is_2_0)
        if fields is None:
            return MALFORMED_ROW
        seconds, posted_s, mode, pool, style = fields
        if mode in ("7", "8", "9"):
            return Row(None, SCRIPT)
        if pool in ("1", "2"):
            return Row(None, SUBTITLE)
        return Row(child.text, MALFORMED, seconds, posted_s, posted_s if self._is_live else None, style=style)


class Fields(NamedTuple):
    seconds: float  # into the video
    posted_s: float | None  # Unix time
    mode: str
    pool: str
    style: Style


def read_fields(p: str, *, is_2_0: bool = False) -> Fields | None:
    """Returns the fields of a danmaku, or None if these are not such fields."""
    fields = p.split(",")
    count = len(fields)
    seconds = number(fields[0])
    if seconds is None or count < 4:
        return None
    if count >= 9 and (is_2_0 or seconds > MAX_VIDEO_S):
        milliseconds = number(fields[2])
        if milliseconds is None:
            return None
        seconds, (mode, size, colour, posted, pool) = milliseconds / 1000, fields[3:8]
    elif count == 4:
        mode, size, colour, posted, pool = fields[1], "", fields[2], "", "0"
    else:
        mode, size, colour, posted, pool = *fields[1:5], fields[5] if count > 5 else "0"
    if not (abs(seconds) <= MAX_VIDEO_S and mode.isdecimal() and pool.isdecimal()):
        return None
    posted_s = number(posted) if posted else 0.0
    if posted_s is None:
        return None
    style = Style(_read_number(mode, 1), _read_number(size, 25), _read_number(colour, 0xFFFFFF))
    return Fields(seconds, unix_seconds(posted_s) if posted_s > 0 else None, mode, pool, style)


def _read_number(field: str, default: int) -> int:
    return int(field) if field.isascii() and field.isdecimal() and len(field) <= 8 else default


def is_live(text: Iterable[str]) -> bool:
    """Returns whether the clock of a recording and that of posting ran together, from the first row to the last.

    A video is commented on for years, so either its seconds decrease somewhere (the file is in order of posting) or the
    times of posting do (it is in order of the video), or posting took much longer than the video.
    """
    count, rest = 0, ""
    first_s = first_posted_s = highest_s = highest_posted_s = 0.0
    for part in text:
        rest += part
        end = 0
        for match in P.finditer(rest):
            end = match.end()
            if (fields := read_fields(match[1])) is None:
                continue
            seconds, posted_s, *_ = fields
            if posted_s is None:
                return False
            if not count:
                first_s, first_posted_s = highest_s, highest_posted_s = seconds, posted_s
            count += 1
            if seconds < highest_s - BACK_S or posted_s < highest_posted_s - LATE_S:
                return False
            highest_s, highest_posted_s = max(highest_s, seconds), max(highest_posted_s, posted_s)
        rest = rest[end:][-MAX_TAG:]
    span_s, posted_span_s = highest_s - first_s, highest_posted_s - first_posted_s
    return count > 1 and span_s / 4 <= posted_span_s <= 4 * span_s + 600
