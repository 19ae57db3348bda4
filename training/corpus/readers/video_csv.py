"""CSV files of videos: `text,seconds into the video,posted at`, a file per video, rows in no order.

No header, and nothing is quoted: the text may hold commas, so a row is read from the right. Danmaku that are
scripts of several lines stand in these files unescaped; their fragments are malformed rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.corpus.readers.base import TOO_LONG, Reader, ReaderSettings, Row, lines_of, most

ROW = re.compile(r"(.*),(\d+(?:\.\d+)?),(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.DOTALL)


def recognises(head: str) -> bool:
    lines = head.split("\n")
    return most(lines, sum(1 for line in lines if ROW.fullmatch(line.removesuffix("\r"))))


def rows(path: Path, settings: ReaderSettings) -> Iterator[Row]:
    for line in lines_of(path):
        if line is None:
            yield TOO_LONG
        elif match := ROW.fullmatch(line):
            yield Row(match[1], order_s=float(match[2]))
        elif line.strip():
            yield Row(None)


READER = Reader("csv", (".csv",), recognises, rows)
