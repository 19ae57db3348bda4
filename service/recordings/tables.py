"""Parses CSV and TSV: recorded danmaku without a header, `text,seconds into the video,posted at`; or a table with one.

Recorded danmaku come in two kinds. Crawlers that join with commas quote nothing: the text may contain commas, so a row
is read from the right, and fragments of scripts, which are unescaped in these files, are malformed rows. Files of a CSV
library have quotes around each text that needs them. A file is of the second kind if all texts that need quotes, and
no others, have them.

A table's header names its columns; `--text-column` and `--time-column` name columns with unknown names. Ambiguous
columns are refused with the first row: the column next to a danmaku is usually its writer.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from service.recordings.base import (
    MALFORMED,
    MALFORMED_ROW,
    MAX_ROW,
    MAX_VIDEO_S,
    LineParser,
    Options,
    RecordingError,
    Row,
    is_most,
)
from service.recordings.times import DATE, number, split_time, unix_time

RECORDED = re.compile(rf"(.*),(\d+(?:\.\d+)?),({DATE})", re.DOTALL)
QUOTED_RECORDED = re.compile(rf'"?(?:.*)"?,"?(\d+(?:\.\d+)?)"?,"?({DATE})"?', re.DOTALL)
MANY = 3  # rows that cannot be alike by chance
QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
DELIMITERS = ",\t;"
TEXT = ("text", "content", "msg", "message", "danmaku", "danmu", "comment", "弹幕", "弹幕内容", "内容", "文本")
SECONDS = ("seconds", "videotime", "video_time", "dm_time", "time", "progress", "出现时间", "视频时间", "时间")
POSTED = (
    "posted_at", "unixtime", "timestamp", "ts", "ctime", "send_time", "created_at", "date", "datetime",
    "弹幕时间", "发送时间", "发布时间", "日期",
)  # fmt: skip
MILLISECONDS = ("progress",)
# Columns of a table for a collection that are fields of an item, and writers' columns; neither become metadata.
ITEM = ("id", "count", "ttl_s", "expires_at")
WRITER = re.compile(
    r"u?id|user.*|u?name|nick.*|author.*|writer.*|sender.*|mid_?hash|mid|hash|crc32.*|avatar|u?face|open_?id|"
    r".*(用户|昵称|作者|发送者|头像).*",
    re.IGNORECASE,
)
EXPECTED = (
    "expected a header that names the danmaku's column, such as text or 弹幕内容, or rows of text,seconds,posted at"
)


def recognises(lines: list[str]) -> bool:
    """Returns whether most lines are recorded danmaku."""
    return is_most(sum(1 for line in lines if RECORDED.fullmatch(line)), lines) or is_quoted_throughout(lines)


def is_recorded(lines: list[str]) -> bool:
    """Returns whether a .csv without a header is recorded danmaku, and not a table with other columns."""
    texts = [match[1] for line in lines if (match := RECORDED.fullmatch(line))]
    if len(texts) < MANY or any(mark in texts[0] for mark in '[{"'):  # a script, whose parts are not columns
        return bool(texts)
    # As many commas in every text are columns.
    return texts[0].count(",") == 0 or len({text.count(",") for text in texts}) > 1


def is_quoted_throughout(lines: list[str]) -> bool:
    """Returns whether most lines are recorded danmaku that quote more than the text."""
    quoted = [line for line in lines if '"' in line]
    others = [line for line in quoted if not RECORDED.fullmatch(line) and QUOTED_RECORDED.fullmatch(line)]
    return is_most(sum(1 for line in others if _is_recorded(split(line, ","))), lines)


def is_quoted(lines: Iterable[str]) -> bool:
    """Returns whether exactly the texts of recorded danmaku that need quotes have them, and some do."""
    has_quotes = False
    for line in lines:
        if '"' not in line and line.count(",") <= 2:
            continue
        match = RECORDED.fullmatch(line)
        if match is None:
            continue
        text = match[1]
        if not QUOTED.fullmatch(text) or not ("," in text or '""' in text[1:-1] or "\n" in text):
            return False
        has_quotes = True
    return has_quotes


class RecordedCsv(LineParser):
    """Parses recorded danmaku without quotes, as far as is known: with None, the first quote decides."""

    def __init__(self, undecodable: re.Pattern[str] | None, *, is_quoted: bool | None = False) -> None:
        super().__init__(undecodable)
        self._is_quoted = is_quoted

    def lines(self, lines: list[str]) -> Iterator[Row]:
        if self._undecodable is not None or self._is_quoted is not False:
            yield from super().lines(lines)
            return
        match_row = RECORDED.fullmatch  # the common case
        for line in lines:
            if match := match_row(line[:-1] if line.endswith("\r") else line):
                text, written, posted = match.groups()
                seconds = float(written)
                yield Row(text, MALFORMED, seconds, posted) if seconds <= MAX_VIDEO_S else MALFORMED_ROW
            elif line.strip():
                yield MALFORMED_ROW

    def line(self, line: str) -> tuple[Row, ...]:
        if match := RECORDED.fullmatch(line):
            text, seconds, posted = match.groups()
            if float(seconds) > MAX_VIDEO_S:
                return (MALFORMED_ROW,)
            if self._is_quoted is not False:
                text = self._unquote(text, line)
            return (Row(text, MALFORMED, float(seconds), posted),)
        return (MALFORMED_ROW,) if line.strip() else ()

    def _unquote(self, text: str, line: str) -> str:
        if self._is_quoted is None and ('"' in text or "," in text):
            self._is_quoted = is_quoted([line])
        return text[1:-1].replace('""', '"') if self._is_quoted and QUOTED.fullmatch(text) else text


class Table(LineParser):
    """Parses rows whose fields may be quoted and may span several lines."""

    def __init__(
        self, undecodable: re.Pattern[str] | None, delimiter: str, read: Callable[[list[str]], Row], *, has_header: bool
    ) -> None:
        super().__init__(undecodable)
        self._delimiter, self._read, self._is_header = delimiter, read, has_header
        self._open = ""  # lines of a field whose quotes are not closed

    def line(self, line: str) -> tuple[Row, ...]:
        if self._open:
            line = f"{self._open}\n{line}"
        elif not line.strip():
            return ()
        try:
            (values,) = csv.reader([line], delimiter=self._delimiter, strict=True)
        except csv.Error as error:
            if "unexpected end of data" in str(error) and len(line) < MAX_ROW:
                self._open = line
                return ()
            values = split(line, self._delimiter)
        self._open = ""
        if self._is_header:
            self._is_header = False
            return ()
        return (self._read(values),)

    def close(self) -> Iterator[Row]:
        yield from super().close()
        if self._open:
            yield MALFORMED_ROW


def open_table(
    name: str, head: list[str], undecodable: re.Pattern[str] | None, options: Options, *, is_recorded: bool
) -> Table:
    """Returns a parser. Raises RecordingError with the first row if the columns are ambiguous."""
    if is_recorded and options.text_column is None:
        return Table(undecodable, ",", _read_recorded, has_header=False)
    first_line = next((line for line in head if line.strip()), "")
    delimiter = max(DELIMITERS, key=lambda each: len(split(first_line, each)))
    first = [cell.strip() for cell in split(first_line, delimiter)]
    names = [cell.lower() for cell in first]
    has_header = not any(split_time(cell) for cell in first)  # a name is not a time
    text = _column(name, options.text_column, first, "--text-column")
    if text is None:
        found = [names.index(each) for each in TEXT if each in names] if has_header else []
        if len(found) != 1:
            why = "several columns may be the danmaku" if found else "cannot tell which column is the danmaku"
            raise RecordingError(f"{name}: {why}; its first row is {first_line[:200]!r}: {EXPECTED}; or --text-column")
        (text,) = found
    else:
        # a number alone does not say whether there is a header
        is_named = not (options.text_column or "").isdecimal()
        has_header = has_header and (is_named or any(each in (*TEXT, *SECONDS, *POSTED) for each in names))
    time = _column(name, options.time_column, first, "--time-column")
    seconds = posted = None
    if has_header and time is None:
        seconds = next((names.index(each) for each in SECONDS if each in names), None)
        posted = next((names.index(each) for each in POSTED if each in names), None)
    keeps = options.keep_items and has_header and names[text] == "text" and options.text_column is None
    read = _Columns(len(first), text, time, seconds, posted, names, keeps_item=keeps)
    return Table(undecodable, delimiter, read, has_header=has_header)


def is_table(head: list[str]) -> bool:
    """Returns whether the first line is a header that names the danmaku's column and others."""
    first_line = next((line for line in head if line.strip()), "")
    for delimiter in DELIMITERS:
        names = [cell.strip().lower() for cell in split(first_line, delimiter)]
        if len(names) > 1 and sum(name in TEXT for name in names) == 1 and any(n in SECONDS + POSTED for n in names):
            return True
    return False


def is_columns(lines: list[str]) -> bool:
    """Returns whether a text of unknown format is a table: equal numbers of columns, one of which is
    always a number.
    """
    rows = [split(line, ",") for line in lines if line.strip()]
    if len(rows) < 2 or len(rows[0]) < 3 or len({len(row) for row in rows}) > 1:
        return False
    return any(all(number(cell) is not None for cell in column) for column in zip(*rows, strict=True))


def has_column(head: list[str], wanted: str | None) -> bool:
    """Returns whether a named column is in the first line: the option may be meant for JSON in the same folder."""
    first_line = next((line for line in head if line.strip()), "")
    return wanted is not None and any(
        len(cells) > 1 and (wanted.isdecimal() or wanted in (cell.strip() for cell in cells))
        for cells in (split(first_line, delimiter) for delimiter in DELIMITERS)
    )


class _Columns:
    def __init__(
        self,
        count: int,
        text: int,
        time: int | None,
        seconds: int | None,
        posted: int | None,
        names: Sequence[str],
        *,
        keeps_item: bool,
    ) -> None:
        self._count, self._text, self._time, self._seconds, self._posted = count, text, time, seconds, posted
        self._names, self._keeps_item = names, keeps_item

    def __call__(self, values: list[str]) -> Row:
        if len(values) != self._count:
            return MALFORMED_ROW
        text = values[self._text]
        if self._time is not None:
            if (time := split_time(values[self._time])) is None:
                return MALFORMED_ROW
            return Row(text, MALFORMED, *time, None, "", self._item(values))
        seconds: float | None = None
        posted: float | str | None = None
        if self._seconds is not None and (time := split_time(values[self._seconds])) is not None:
            seconds, posted = time
            if seconds is not None and self._names[self._seconds] in MILLISECONDS:
                seconds /= 1000
        if self._posted is not None and unix_time(values[self._posted]) is not None:
            posted = values[self._posted]
        return Row(text, MALFORMED, seconds, posted, None, "", self._item(values))

    def _item(self, values: list[str]) -> dict[str, Any] | None:
        if not self._keeps_item:
            return None
        item: dict[str, Any] = {"text": values[self._text]}
        for place, (name, value) in enumerate(zip(self._names, values, strict=True)):
            if place == self._text or not value:
                continue
            if name in ITEM:
                item[name] = value if name == "id" else _number(value)
            elif not WRITER.fullmatch(name):
                item.setdefault("metadata", {})[name] = _number(value)
        return item


def split(line: str, delimiter: str) -> list[str]:
    """Returns the cells of a line, as far as it can be read; none if a cell is longer than csv reads."""
    try:
        # Within a line, csv would take a carriage return for the end of the row, and fail.
        return next(csv.reader([line.rstrip("\r").replace("\r", " ")], delimiter=delimiter), [])
    except csv.Error:
        return []


def _is_recorded(values: list[str]) -> bool:
    if len(values) != 3 or (seconds := number(values[1])) is None or seconds > MAX_VIDEO_S:
        return False
    return re.fullmatch(DATE, values[2]) is not None


def _read_recorded(values: list[str]) -> Row:
    return Row(values[0], MALFORMED, float(values[1]), values[2]) if _is_recorded(values) else MALFORMED_ROW


def _column(name: str, wanted: str | None, first: list[str], flag: str) -> int | None:
    if wanted is None:
        return None
    if wanted.isdecimal():
        if not 1 <= int(wanted) <= len(first):
            raise RecordingError(f"{name}: invalid {flag} {wanted}; the first row has {len(first)} columns: {first}")
        return int(wanted) - 1
    if wanted not in first:
        raise RecordingError(f"{name}: there is no column {wanted!r}; the first row has {', '.join(map(repr, first))}")
    return first.index(wanted)


def _number(value: str) -> str | int | float:
    """Returns a number if it is written as in JSON, so that filters can compare it: "007" stays a text.

    An integer beyond 64 bits stays a text, too, because nothing here stores it exactly.
    """
    try:
        found = orjson.loads(value)
    except ValueError:
        return value
    if isinstance(found, float) and value.lstrip("-").isdecimal():
        return value
    return found if isinstance(found, int | float) and not isinstance(found, bool) else value
