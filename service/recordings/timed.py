"""Reads the danmaku of a recording in the order in which viewers saw them, with their times in seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from service.recordings.base import RecordingError, Style, describe_drops
from service.recordings.recording import Recording
from service.recordings.times import UNIX_FROM_S, unix_time

NO_TIME = "without a time"


@dataclass(frozen=True, slots=True)
class TimedLine:
    number: int  # of the danmaku, in the order of the file, from 0
    text: str
    seconds: float  # into the video; since the first danmaku of a live recording that has only times of posting
    style: Style | None = None


@dataclass(frozen=True)
class Timed:
    lines: list[TimedLine]  # in order of time; equal times keep the file's order
    dropped: Counter[str]  # rows that are not danmaku, by reason


def read_timed(recording: Recording) -> Timed:
    """Raises RecordingError if there is no danmaku with a time."""
    lines: list[TimedLine] = []
    dropped: Counter[str] = Counter()
    number = 0
    for row in recording.rows():
        if row.text is None:
            dropped[row.reason] += 1
            continue
        times = (row.seconds, unix_time(row.posted), row.clock_s)
        if (seconds := next((time for time in times if time is not None), None)) is None:
            dropped[NO_TIME] += 1
        else:
            lines.append(TimedLine(number, row.text, seconds, row.style))
        number += 1
    if not lines:
        raise RecordingError(f"{recording.path} contains no danmaku with a time ({describe_drops(dropped)})")
    lines.sort(key=lambda line: line.seconds)
    if (start := lines[0].seconds) >= UNIX_FROM_S:
        lines = [replace(line, seconds=line.seconds - start) for line in lines]
    return Timed(lines, dropped)
