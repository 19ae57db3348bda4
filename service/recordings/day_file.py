"""Parses the archive bilibili-vtuber-danmaku: ROOM/YYYY-M-D.txt has one room on one day (UTC+8).

    TIME13:31ONLINE61                       how many were watching, once or twice a minute, in all versions
    别突了别突了                            V0, to May 2019
    10829074:从没喝水的时候开始             V1, to November 2019: the writer's number first
    1610516217493:334336116:是会动的        V2: before it, milliseconds
    SPEAKERNUM2;10829074:name:28,…          the last lines; missing if the day was not closed
    V2

A silence of both clocks, TIME and milliseconds, splits the day into streams. Texts may contain colons. A recorder was
updated in the middle of some day, so the format is decided per line, and a line whose number might identify a person is
dropped.
"""

from __future__ import annotations

import re

from service.recordings.base import MALFORMED_ROW, LineParser, Row, is_most

ONLINE = re.compile(r"TIME(\d{1,2}):(\d{1,2})ONLINE\d+")
ANY_ONLINE = re.compile(r"^TIME\d{1,2}:\d{1,2}ONLINE\d+\r?$", re.MULTILINE)
V2 = re.compile(r"(\d{13}):\d+:(.*)", re.DOTALL)
V1 = re.compile(r"\d+:(.*)", re.DOTALL)
MAYBE_A_PERSON = re.compile(r"\d{4,}:")  # 12:30 is a time of day
SPEAKERS = re.compile(r"SPEAKERNUM\d+;")
VERSION = re.compile(r"V\d")
DAY_S = 24 * 3600
UTC_8_S = 8 * 3600


def recognises(head: str, lines: list[str]) -> bool:
    """Returns whether there is a viewer count among the lines; one suffices."""
    if ANY_ONLINE.search(head):
        return True
    return is_most(sum(1 for line in lines if V2.fullmatch(line)), lines)


def is_numbered(head: list[str], last_line: str) -> bool:
    """Returns whether the day is V1 or V2, by its last line, or by most of the lines if that is missing."""
    if VERSION.fullmatch(last_line):
        return last_line != "V0"
    lines = [line for line in head if line and not ONLINE.fullmatch(line)]
    return is_most(sum(1 for line in lines if V1.fullmatch(line)), lines)


class DayFile(LineParser):
    def __init__(self, undecodable: re.Pattern[str] | None, *, is_numbered: bool) -> None:
        super().__init__(undecodable)
        self._is_numbered = is_numbered
        self._is_over = False  # the trailer has begun

    def line(self, line: str) -> tuple[Row, ...]:
        if not line.strip():
            return ()
        if match := ONLINE.fullmatch(line):
            return (Row(None, "count of viewers", clock_s=60.0 * (60 * int(match[1]) + int(match[2]))),)
        if SPEAKERS.match(line) or (self._is_over and VERSION.fullmatch(line)):
            self._is_over = True
            return (Row(None, "list of writers"),)
        if match := V2.fullmatch(line):
            posted_s = int(match[1]) / 1000
            return (Row(match[2], posted=posted_s, clock_s=(posted_s + UTC_8_S) % DAY_S),)
        if self._is_numbered:
            match = V1.fullmatch(line)
            return (Row(match[1]),) if match else (MALFORMED_ROW,)
        return (MALFORMED_ROW,) if MAYBE_A_PERSON.match(line) else (Row(line),)
