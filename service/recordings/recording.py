"""Detects the format of a file and reads the danmaku in it.

A format is recognised by these rules, in this order:

1. `--format`, if it is given.
2. Most of its first lines are rows of recorded danmaku.
3. The beginning of the file: markup, the first section of ASS, an array of JSON.
4. Most of its first lines: JSON objects, counts of viewers (one suffices).
5. Its suffix: a .csv has a header, or is refused; a .xml, .ass or .json that does not begin as one is refused.
6. Any other file is plain text, unless it is a README or a list of packages.

The file is read once to find its encoding and its variant of the format, and a second time for its danmaku. So it
is refused before its first danmaku is returned, and memory does not grow with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from service.recordings import ass, day_file, segments, tables
from service.recordings.base import (
    HEAD_BYTES,
    HEAD_CHARACTERS,
    HEAD_LINES,
    Options,
    Parser,
    RecordingError,
    Row,
    is_most,
)
from service.recordings.danmaku_xml import DanmakuXml, is_live
from service.recordings.decoding import Encoding, decode, detect, detect_head
from service.recordings.json_rows import JsonArray, JsonLines, JsonRow, is_array, load
from service.recordings.plain_text import PlainText

# In order of preference, for folders with one recording in several formats.
FORMATS = ("xml", "segment", "json", "jsonl", "day", "csv", "ass", "text")
SUFFIXES = {
    ".xml": "xml",
    ".so": "segment",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".ass": "ass",
    ".txt": "text",
}
READ = (
    "expected XML of Bilibili or a recorder, ASS, JSON, CSV, a day file, a segment, or .txt with one danmaku per line"
)
MARKUP = re.compile(r"<[?!/a-zA-Z]")
DANMAKU_TAG = re.compile(r"<d\s[^<>]*\bp=|<i>|<i\s")
HTML = re.compile(r"<!doctype\s+html|<html[\s>]", re.IGNORECASE)
NOT_DANMAKU = re.compile(
    r"readme.*|licen[cs]e.*|copying.*|changelog.*|contributing.*|requirements.*|constraints.*|.*stop_?-?words.*|vocab.*|"
    r".*停用词.*",
    re.IGNORECASE,
)
PACKAGE = re.compile(r"[A-Za-z0-9][\w.\[\],-]*\s*([=~<>!]=|@\s).*")
VIDEO = re.compile(r"BV[0-9A-Za-z]{10}|av\d+", re.IGNORECASE)
LAST_BYTES = 1024


@dataclass(frozen=True)
class Recording:
    """A recognised file. Its rows can be read several times."""

    path: Path
    format: str
    encoding: Encoding
    options: Options
    head: str
    is_live: bool = False  # XML: the clocks of the recording and of posting run together
    is_quoted: bool | None = False  # CSV without a header; None if the rows have not been read
    is_numbered: bool = False  # a day file with the writers' numbers

    def rows(self) -> Iterator[Row]:
        """Yields each danmaku of the file, or the reason why it is not one, in the order of the file."""
        with self.path.open("rb") as source:
            yield from self.rows_from(source)

    def rows_from(self, source: BinaryIO) -> Iterator[Row]:
        """Yields the same from a file that the caller opened, who can ask for its position."""
        if self.format == "segment":
            yield from segments.rows(segments.parse(source.read(segments.MAX_BYTES)) or [])
            return
        parser = self.parser()
        for text in decode(source, self.encoding):
            yield from parser.feed(text)
        yield from parser.close()

    def parser(self) -> Parser:
        return _parser(self, self.encoding.undecodable)

    @property
    def name(self) -> str:
        return name_of(self.path)


def open_recording(path: Path, options: Options | None = None) -> Recording:
    """Recognises a file. Raises RecordingError with the reason if it is not read, OSError if it cannot be."""
    options = options or Options()
    with path.open("rb") as source:
        start = source.read(HEAD_BYTES)
        if _is_segment(path, start, options) and _is_whole_segment(path, source):
            return Recording(path, "segment", Encoding("utf-8", True), options, "")
        source.seek(0)
        encoding = detect(str(path), source, options.encoding)
        head, is_whole = _head(decode(source, encoding))
        kind = options.format or recognise(str(path), head, path.suffix.lower(), options, is_whole=is_whole)
        found = Recording(path, kind, encoding, options, head)
        match kind:
            case "segment":
                raise RecordingError(f"{path} is not a protobuf segment; {READ}")
            case "xml":
                found = replace(found, is_live=is_live(decode(source, encoding)))
            case "day":
                found = replace(found, is_numbered=day_file.is_numbered(_lines(head), _last_line(source, encoding)))
            case "csv":
                is_quoted = tables.is_quoted_throughout(_lines(head)) or (
                    any('"' in part for part in decode(source, encoding))
                    and tables.is_recorded(_lines(head))
                    and tables.is_quoted(_all_lines(decode(source, encoding)))
                )
                found = replace(found, is_quoted=is_quoted)
                found.parser()  # refuses columns that cannot be told apart
        return found


class RecordingFeed:
    """Parses a recording while it arrives; incomplete data waits for the next bytes.

    The format is recognised by the first line, so that the first danmaku need not wait for others; or, when starting in
    the middle of a file, by that file's `head`.
    """

    def __init__(self, name: str, options: Options | None = None, head: bytes = b"") -> None:
        self._path, self._options = Path(name), options or Options()
        self._pending = b""
        self._parser: Parser | None = None
        self.format: str | None = None  # until it is recognised
        self.encoding: Encoding | None = None
        if head:
            self._open(head, is_whole=False)

    def feed(self, chunk: bytes, *, is_last: bool = False) -> Iterator[Row]:
        """Yields the rows that are complete. Raises RecordingError if the data is refused."""
        if self._parser is None:
            self._pending += chunk
            if not self._pending or not (is_last or b"\n" in self._pending or len(self._pending) >= HEAD_BYTES // 16):
                return
            self._open(self._pending, is_whole=is_last)
            chunk, self._pending = self._pending, b""
        if self._parser is None:
            return
        yield from self._parser.feed(self._decoder.decode(chunk, is_last))
        if is_last:
            yield from self._parser.close()

    def _open(self, head: bytes, *, is_whole: bool) -> None:
        encoding = detect_head(str(self._path), head, self._options.encoding)
        text = head.decode(encoding.name, "replace")
        if not is_whole and "\n" in text:
            text = text[: text.rindex("\n") + 1]  # without a truncated line
        if not text.strip("\ufeff \r\n\t") and not is_whole:
            return
        kind = self._options.format or recognise(
            str(self._path), text, self._path.suffix.lower(), self._options, is_whole=is_whole
        )
        recording = Recording(
            self._path,
            kind,
            encoding,
            self._options,
            text,
            is_quoted=tables.is_quoted_throughout(_lines(text)) or None,
            is_numbered=kind == "day" and day_file.is_numbered(_lines(text), ""),
        )
        self.format, self.encoding = kind, encoding
        self._decoder = encoding.decoder()
        self._parser = recording.parser()


def recognise(name: str, head: str, suffix: str, options: Options, *, is_whole: bool) -> str:
    """Returns the format of a text by its beginning; `is_whole` if that is everything. Raises RecordingError with the
    reason.
    """
    lines = _lines(head, is_whole=is_whole)
    start = head.lstrip("\ufeff \t\r\n")
    expected = SUFFIXES.get(suffix)
    if not start:
        return expected or "text"
    if tables.recognises(lines):  # checked first, since the first danmaku may look like anything
        return "csv"
    if MARKUP.match(start) and (found := _markup(name, start, lines, expected)):
        return found
    if ass.recognises(start) or (expected == "ass" and any(line.startswith("Dialogue:") for line in lines)):
        return "ass"
    if is_array(start):
        return "json"
    values = [value for line in lines if (value := load(line)) is not None]
    is_objects = is_most(sum(isinstance(value, dict) for value in values), lines)
    if is_objects or (expected in ("json", "jsonl") and is_most(len(values), lines)):
        _refuse_unknown_objects(name, values, options)
        return "jsonl"
    if day_file.recognises(head, lines):
        return "day"
    if expected in (None, "text", "csv") and tables.is_table(lines):
        return "csv"
    if expected in ("xml", "ass", "json", "jsonl", "segment"):
        raise RecordingError(
            f"{name} does not contain what its name suggests; {READ}; or give its format with --format"
        )
    if expected == "csv" or tables.has_column(lines, options.text_column) or tables.is_columns(lines):
        return "csv"
    _refuse_other_text(name, lines)
    return "text"


def name_of(path: Path) -> str:
    """Returns the name that identifies a file, independent of where the corpus is stored.

    The name of a CSV file is a video's number. Other names are dates or titles, or the same in every video's folder, so
    they include the folder. Files of one folder that differ only in their suffix are one recording.
    """
    folder = path.absolute().parent.name
    is_number = path.suffix.lower() == ".csv" and any(map(str.isdigit, path.stem)) and not VIDEO.fullmatch(folder)
    return path.stem if is_number else f"{folder}/{path.stem}"


def _parser(recording: Recording, undecodable: re.Pattern[str] | None) -> Parser:
    name, options, head = str(recording.path), recording.options, _lines(recording.head)
    match recording.format:
        case "xml":
            return DanmakuXml(name, undecodable, is_live=recording.is_live)
        case "ass":
            return ass.Ass(undecodable)
        case "json":
            return JsonArray(name, undecodable, options)
        case "jsonl":
            return JsonLines(name, undecodable, options)
        case "day":
            return day_file.DayFile(undecodable, is_numbered=recording.is_numbered)
        case "csv":
            is_empty = not any(line.strip() for line in head)
            is_plain = not recording.is_quoted and not tables.is_table(head) and tables.is_recorded(head)
            if (is_plain or is_empty) and not tables.has_column(head, options.text_column):
                return tables.RecordedCsv(undecodable, is_quoted=recording.is_quoted)
            return tables.open_table(name, head, undecodable, options, is_recorded=bool(recording.is_quoted))
        case "text":
            return PlainText(recording.name, undecodable)
    raise RecordingError(f"{name} is not a {recording.format}; {READ}")


def _markup(name: str, start: str, lines: list[str], expected: str | None) -> str | None:
    """Returns the format of a text that begins with a tag, or None for a text whose first danmaku is a tag."""
    if HTML.match(start):
        raise RecordingError(f"{name} is a page of HTML, not a recording; {READ}")
    if expected == "xml" or start.startswith("<?xml") or DANMAKU_TAG.search(start):
        return "xml"
    if is_most(sum(1 for line in lines if line.lstrip().startswith("<")), lines):
        raise RecordingError(f"{name} is markup without danmaku; {READ}")
    return None


def _refuse_unknown_objects(name: str, values: list[object], options: Options) -> None:
    """Raises RecordingError if none of the first objects is a danmaku or another object of a recorder."""
    reader = JsonRow(name, options)
    for value in values:
        for _ in reader.rows(value):
            pass
    if options.text_column is None and options.time_column is None and options.document_field is None:
        reader.close()


def _refuse_other_text(name: str, lines: list[str]) -> None:
    path = Path(name)
    hint = "if it is danmaku, say so with --format text"
    if NOT_DANMAKU.fullmatch(path.name):
        raise RecordingError(f"{name} does not have the name of a recording; {hint}")
    if is_most(sum(1 for line in lines if PACKAGE.fullmatch(line)), lines):
        raise RecordingError(f"{name} is a list of packages; {hint}")


def _is_segment(path: Path, start: bytes, options: Options) -> bool:
    is_other = SUFFIXES.get(path.suffix.lower(), "segment") != "segment"
    return options.format == "segment" or (options.format is None and start[:1] == b"\n" and not is_other)


def _is_whole_segment(path: Path, source: BinaryIO) -> bool:
    source.seek(0)
    content = source.read(segments.MAX_BYTES + 1)
    return len(content) <= segments.MAX_BYTES and segments.parse(content) is not None


def _head(parts: Iterator[str]) -> tuple[str, bool]:
    """Returns the first HEAD_CHARACTERS, and whether that is everything."""
    head = ""
    for part in parts:
        head += part
        if len(head) > HEAD_CHARACTERS:
            return head[:HEAD_CHARACTERS], False
    return head, True


def _lines(head: str, *, is_whole: bool = False) -> list[str]:
    """Returns the lines of a head; the last may be cut."""
    lines = head.removeprefix("\ufeff").split("\n", HEAD_LINES)
    if len(lines) > HEAD_LINES or (len(head) >= HEAD_CHARACTERS and not is_whole and len(lines) > 1):
        del lines[-1]
    return [line.removesuffix("\r") for line in lines]


def _all_lines(parts: Iterable[str]) -> Iterator[str]:
    rest = ""
    for part in parts:
        *lines, rest = (rest + part).split("\n")
        for line in lines:
            yield line.removesuffix("\r")
    yield rest


def _last_line(source: BinaryIO, encoding: Encoding) -> str:
    source.seek(max(0, source.seek(0, 2) - LAST_BYTES))
    return source.read().decode(encoding.name, "replace").rstrip().rpartition("\n")[2]
