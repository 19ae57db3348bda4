"""The archive bilibili-vtuber-danmaku: ROOM/YYYY-M-D.txt, one room on one day (UTC+8), whatever was on.

    TIME13:31ONLINE61                       how many were watching, once or twice a minute, in all versions
    别突了别突了                            V0, to May 2019
    10829074:从没喝水的时候开始             V1, to November 2019: the writer's number first
    1610516217493:334336116:是会动的        V2: before it, milliseconds
    SPEAKERNUM2;10829074:name:28,…          the last lines; missing if the day was not closed
    V2

A silence of both clocks, TIME and milliseconds, splits the day into its streams. The text may hold colons. A
recorder was renewed in the middle of some day: lines are taken for what they look like, and where a number
might be a person's, the line is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from training.corpus.readers.base import TOO_LONG, Reader, ReaderSettings, Row, lines_of, most

ONLINE = re.compile(r"TIME(\d{1,2}):(\d{1,2})ONLINE\d+")
V2 = re.compile(r"(\d{13}):\d+:(.*)", re.DOTALL)
V1 = re.compile(r"\d+:(.*)", re.DOTALL)
MAYBE_A_PERSON = re.compile(r"\d{4,}:")  # 12:30 is a time of day
SPEAKERS = re.compile(r"SPEAKERNUM\d+;")
VERSION = re.compile(r"V\d")
HEAD_LINES = 2000
DAY_S = 24 * 3600
UTC_8_S = 8 * 3600


def recognises(head: str) -> bool:
    lines = head.split("\n")
    if any(ONLINE.fullmatch(line.removesuffix("\r")) for line in lines):
        return True
    return most(lines, sum(1 for line in lines if V2.fullmatch(line)))


def rows(path: Path, settings: ReaderSettings) -> Iterator[Row]:
    numbered = _is_numbered(path)
    is_over = False  # the trailer has begun
    for line in lines_of(path):
        if line is None:
            yield TOO_LONG
        elif not line.strip():
            continue
        elif match := ONLINE.fullmatch(line):
            yield Row(None, "count of viewers", clock_s=60.0 * (60 * int(match[1]) + int(match[2])))
        elif SPEAKERS.match(line) or (is_over and VERSION.fullmatch(line)):
            is_over = True
            yield Row(None, "list of writers")
        elif match := V2.fullmatch(line):
            yield Row(match[2], clock_s=(int(match[1]) / 1000 + UTC_8_S) % DAY_S)
        elif numbered:
            match = V1.fullmatch(line)
            yield Row(match[1]) if match else Row(None)
        else:
            yield Row(None) if MAYBE_A_PERSON.match(line) else Row(line)


def _is_numbered(path: Path) -> bool:
    """Is it V1 or V2? The last line says so; where it is missing, what most lines look like does."""
    last = _last_line(path)
    if VERSION.fullmatch(last):
        return last != "V0"
    lines = [line for line in islice(lines_of(path), HEAD_LINES) if line and not ONLINE.fullmatch(line)]
    return most(lines, sum(1 for line in lines if V1.fullmatch(line)))


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 1024))
        return file.read().rstrip().rpartition(b"\n")[2].decode("utf-8", errors="replace")


READER = Reader("day", (".txt",), recognises, rows)
