"""Parses times in files: seconds into a video, or a time of posting as a number or a date."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone

from service.recordings.base import MAX_VIDEO_S

UNIX_FROM_S = 1e8  # 1973; Bilibili began in 2009
MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds 1973
MICROSECONDS_FROM = 1e14
LAST_UNIX_S = 1e11
BILIBILI = timezone(timedelta(hours=8))  # the zone of dates without one, as on Bilibili's pages
DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}[ T]\d{1,2}:\d\d(?::\d\d)?"
PLAIN_DATE = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[ T](\d{1,2}):(\d\d)(?::(\d\d))?)?")


def unix_seconds(time: float) -> float:
    """Returns a Unix time in seconds, which may be given in milliseconds or microseconds."""
    if time >= MICROSECONDS_FROM:
        return time / 1e6
    return time / 1000 if time > MILLISECONDS_FROM else time


def number(value: object) -> float | None:
    """Returns a finite number from a number or a string, or None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def unix_time(value: object) -> float | None:
    """Returns the Unix time in seconds of a number or a date, or None if it is not a time of posting."""
    if (found := number(value)) is not None:
        time = unix_seconds(found)
        return time if UNIX_FROM_S <= time < LAST_UNIX_S else None
    if not isinstance(value, str):
        return None
    try:
        if match := PLAIN_DATE.fullmatch(value.strip()):
            return datetime(*(int(part or 0) for part in match.groups()), tzinfo=BILIBILI).timestamp()  # type: ignore[misc,arg-type]
        date = datetime.fromisoformat(value.strip())
        return (date if date.tzinfo else date.replace(tzinfo=BILIBILI)).timestamp()
    except (ValueError, OverflowError):
        return None


def split_time(value: object) -> tuple[float | None, float | None] | None:
    """Returns (seconds into the video, None) or (None, Unix time), or None if the value is neither."""
    if (found := number(value)) is not None and abs(found) <= MAX_VIDEO_S:
        return found, None
    posted_s = unix_time(value)
    return None if posted_s is None else (None, posted_s)
