"""Bilibili's XML of a video, and that of live recorders, which imitate it: blrec, BililiveRecorder, biliup.

    <d p="490.19100,1,25,16777215,1584268892,0,a16fe0dd,29950852386521095">text</d>

`p` is: seconds into the video, mode, size, colour, time of posting (milliseconds in the first two recorders), pool,
user, id. Modes 7 to 9 are scripts and drawings; pool 1 is subtitles, pool 2 scripts.

Only children of the root are looked at: BililiveRecorder's style sheet, further down, speaks of danmaku too. A video
is sorted by its seconds. A live recording stands in order, and is split where the time of posting leaps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from training.corpus.readers.base import Reader, ReaderSettings, Row, seconds
from training.corpus.readers.lenient_xml import children

HEAD_BYTES = 1 << 16
TOGETHER_S = 60
P = re.compile(r"""<d\s(?:[^<>]*?\s)?p=["']([^"'<>]*)["']""")
NOT_DANMAKU = {
    "gift": "gift",
    "guard": "gift",
    "toast": "gift",
    "sc": "super chat",
    "s": "super chat or gift",  # biliup's, whose attribute `type` says which
    "o": "other message",
}


def recognises(head: str) -> bool:
    start = head.lstrip()
    return start.startswith("<?xml") or (start.startswith("<i") and "<d " in start)


def rows(path: Path, settings: ReaderSettings) -> Iterator[Row]:
    is_live = _is_live(path)
    for child in children(path, "d"):
        if child.name == "d":
            yield _row(child.attributes.get("p", "").split(","), child.text, is_live=is_live)
        elif child.name in NOT_DANMAKU:
            yield Row(None, NOT_DANMAKU[child.name])
        elif not child.name:
            yield Row(None, child.text)


def _row(fields: list[str], text: str, *, is_live: bool) -> Row:
    times = _times(fields)
    if times is None or not (fields[1].isdecimal() and fields[5].isdecimal()):
        return Row(None)
    if int(fields[1]) in (7, 8, 9):
        return Row(None, "script (mode 7, 8 or 9)")
    if int(fields[5]) in (1, 2):
        return Row(None, "subtitle or script (pool 1 or 2)")
    into_s, posted_s = times
    return Row(text, clock_s=posted_s or None) if is_live else Row(text, order_s=into_s)


def _times(fields: list[str]) -> tuple[float, float] | None:
    """Seconds into the video, and of posting; None where these are not the fields of a danmaku."""
    try:
        into_s, posted_s = float(fields[0]), seconds(float(fields[4]))
    except (ValueError, IndexError):
        return None
    return (into_s, posted_s) if len(fields) > 5 and math.isfinite(into_s) and math.isfinite(posted_s) else None


def _is_live(path: Path) -> bool:
    """Did the clocks of the recording and of posting run together? About a video people write for years."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).decode("utf-8", errors="replace")
    times = [time for match in P.finditer(head) if (time := _times(match[1].split(",")))]
    steps = [(b[0] - a[0]) - (b[1] - a[1]) for a, b in pairwise(times)]
    return sum(abs(step) < TOGETHER_S for step in steps) * 2 > len(steps)


READER = Reader("xml", (".xml",), recognises, rows)
