"""Groups rows into documents: all danmaku of one video or stream, in the order in which viewers see them.

`documents` holds one document at a time, and a document ends at MAX_LINES: memory does not grow with the file. For
every file

    rows = danmaku in documents + drops, by reason
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from service.recordings.base import Options, Row

MAX_LINES = 100_000  # of one document; the largest streams have this many danmaku


@dataclass(frozen=True)
class Document:
    """All danmaku of one video or stream, in the order in which viewers saw them."""

    id: str
    lines: list[str]
    seconds: list[float]  # of each line, into the video or by the recorder's clock; all 0 if the file has no times
    source: str = ""  # decides the split, so two sessions of one day are never on both sides


@dataclass
class Tally:
    """Counts of the rows that were read and of those that were dropped, by reason; all others are danmaku."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def documents(name: str, rows: Iterable[Row], options: Options, tally: Tally) -> Iterator[Document]:
    """Yields the documents of the file called `name`: the first has its name, the others `name#2`, `name#3` …

    So ids stay the same when lines are appended to the file.
    """
    number = 0
    pending: list[tuple[float, float, str]] = []
    part, clock_s = "", None
    source = name

    def document() -> Document:
        pending.sort(key=itemgetter(0))
        document_id = name if number == 1 else f"{name}#{number}"
        return Document(document_id, [text for *_, text in pending], [seconds for _, seconds, _ in pending], source)

    for row in rows:
        tally.rows += 1
        ends = len(pending) >= MAX_LINES
        text, reason, seconds, _, row_clock_s, row_document, *_ = row
        if row_clock_s is not None:
            ends = ends or (clock_s is not None and row_clock_s - clock_s > options.session_gap_s)
            clock_s = row_clock_s
        if text is None:
            tally.dropped[reason] += 1
        elif row_document != part:
            ends = True
        if ends and pending:
            number += 1
            yield document()
            pending = []
        if text is not None:
            part = row_document
            source = part or name
            if row_clock_s is None:
                order_s = seconds or 0.0
                pending.append((order_s, order_s, text))
            else:
                pending.append((0.0, row_clock_s if seconds is None else seconds, text))
    if pending:
        number += 1
        yield document()
