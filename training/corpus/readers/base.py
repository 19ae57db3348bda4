"""What a reader is: one family of files, turned into rows; and how rows become documents.

A reader is a module that ends in a `Reader`. It yields a `Row` for everything in a file that could have
been a danmaku: its text, or the reason why it is none. Nothing else is lost on the way, so for every file

    rows = danmaku in documents + drops, by reason

Ids and names of the people who wrote danmaku end in the reader: a `Row` has no place for them.

`documents` holds one document at a time, and a document ends at MAX_LINES: memory does not grow with the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

MAX_LINES = 100_000  # of one document: the largest streams have as many danmaku
MAX_ROW_BYTES = 1 << 20
MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds 1973
MALFORMED = "malformed row"


@dataclass(frozen=True)
class Document:
    """All danmaku of one video or stream, in the order in which viewers see them."""

    id: str
    lines: list[str]
    seconds: list[float]  # of each line, into the video or by the recorder's clock; all 0 where a file does not tell
    source: str = ""  # what its split goes by: two sessions of one day do not stand on both sides


@dataclass(frozen=True)
class ReaderSettings:
    """What cannot be told from the files."""

    text_field: str = "text"  # JSON lines: the field with the danmaku
    time_field: str | None = None  # … with seconds into the video, or the time of posting
    document_field: str | None = None  # … with the name of the video or stream
    session_gap_s: float = 600.0  # live: a longer silence ends a document

    def __post_init__(self) -> None:
        if not self.session_gap_s > 0:
            raise ValueError(f"session_gap_s is {self.session_gap_s}; it must be more than 0")


class Row(NamedTuple):
    """One danmaku, or what was in the place of one."""

    text: str | None  # None: no danmaku
    reason: str = MALFORMED  # … because
    order_s: float = 0.0  # sorts the danmaku of a document; equal ones stay as in the file
    clock_s: float | None = None  # a leap of this clock ends a document
    document: str = ""  # a change of this name does, too


TOO_LONG = Row(None, "longer than a MiB")


@dataclass
class Tally:
    """What was read: rows, of them dropped by reason; the others are danmaku in documents."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Reader:
    """One family of files."""

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[str], bool]  # is a file that begins so surely one of these?
    rows: Callable[[Path, ReaderSettings], Iterator[Row]]  # all that could be danmaku, in the order of the file


def documents(name: str, rows: Iterable[Row], settings: ReaderSettings, tally: Tally) -> Iterator[Document]:
    """The documents of the file called `name`: the first has its name, the others `name#2`, `name#3` …

    So an id stays what it is when the file grows at its end.
    """
    number = 0
    pending: list[tuple[float, float, str]] = []
    part, clock_s = "", None
    source = name

    def document() -> Document:
        pending.sort(key=itemgetter(0))
        id = name if number == 1 else f"{name}#{number}"
        return Document(id, [text for *_, text in pending], [seconds for _, seconds, _ in pending], source)

    for row in rows:
        tally.rows += 1
        ends = len(pending) >= MAX_LINES
        if row.clock_s is not None:
            ends = ends or (clock_s is not None and row.clock_s - clock_s > settings.session_gap_s)
            clock_s = row.clock_s
        if row.text is None:
            tally.dropped[row.reason] += 1
        elif row.document != part:
            ends = True
        if ends and pending:
            number += 1
            yield document()
            pending = []
        if row.text is not None:
            part = row.document
            source = part or name
            pending.append((row.order_s, row.order_s if row.clock_s is None else row.clock_s, row.text))
    if pending:
        number += 1
        yield document()


def name_of(path: Path) -> str:
    """What a file is known by, wherever the corpus lies.

    The name of a CSV file is a video's number. Other names are dates and titles, and two rooms may share them: there
    the folder belongs to the name. Files of one folder that differ in their suffix only are one recording.
    """
    return path.stem if path.suffix.lower() == ".csv" else f"{path.absolute().parent.name}/{path.stem}"


def lines_of(path: Path) -> Iterator[str | None]:
    """The lines of a UTF-8 file; None in the place of one longer than MAX_ROW_BYTES.

    Only \\n ends a line: splitlines would also cut at the exotic separators that viewers paste. A byte order mark,
    as spreadsheets write it, is no danmaku, and a byte that is not UTF-8 spoils one character.
    """
    with path.open("rb") as file:
        mark = "\ufeff"
        while raw := file.readline(MAX_ROW_BYTES):
            if len(raw) == MAX_ROW_BYTES and not raw.endswith(b"\n"):
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_ROW_BYTES)
                yield None
            else:
                yield raw.decode("utf-8", errors="replace").removeprefix(mark).removesuffix("\n").removesuffix("\r")
            mark = ""


def seconds(time: float) -> float:
    """A time that may have been given in milliseconds, which recorders differ in, in seconds."""
    return time / 1000 if time > MILLISECONDS_FROM else time


def most(lines: list[str], matches: int) -> bool:
    """Is a head of these lines, blank ones apart, mostly matches?"""
    return matches * 2 > sum(1 for line in lines if line.strip())
