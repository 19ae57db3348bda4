"""Parses JSON of recorders and crawlers: one value per line, or an array; its fields identify a value.

    {"text": "草", "time": 1.5}                             any: fields as in TEXT and TIME, or as the options name them
    {"cmd": "DANMU_MSG", "info": [[0, 1, 25, 16777215, 1600000000123, …], "草", …]}   raw events: blrec, blivedm;
                                                            bilibili-api has them in "data"
    {"p": "12.5,1,16777215,[…]", "m": "草"}                 dandanplay, in "comments"
    {"progress": 12500, "mode": 1, "content": "草", …}      Bilibili's segments as JSON, in "elems"
    {"replayChatItemAction": {"actions": [{"addChatItemAction": …}]}, "videoOffsetTimeMsec": "12500"}   yt-dlp
    "草"                                                    a text alone

A time is seconds into the video, a Unix time in seconds or smaller units (a number or a string of one), or a date.
Seconds sort a document. Unix times mean a live recording: it keeps its order, and a jump of the times ends a document.
With a document field, consecutive rows with one value are a document, sorted by time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from service.recordings.base import (
    MALFORMED,
    MALFORMED_ROW,
    MAX_ROW,
    MAX_VIDEO_S,
    NOT_TEXT_ROW,
    OTHER,
    SCRIPT,
    SUBTITLE,
    TOO_LONG,
    LineParser,
    Options,
    RecordingError,
    Row,
)
from service.recordings.danmaku_xml import read_fields
from service.recordings.times import number, split_time

TEXT = ("text", "content", "msg", "message", "danmaku", "danmu", "弹幕", "弹幕内容")
TIME = ("time", "seconds", "dm_time", "ts", "timestamp", "posted_at", "send_time", "ctime")
CONTAINERS = r'"(?:comments|elems|elements|danmakus?|danmu|data|items|list)"'
ARRAY = re.compile(rf"\s*(?:\{{[^\[\]{{}}]*{CONTAINERS}\s*:\s*)?\[")
SEPARATOR = re.compile(r"[\s,]*")
HALF = re.compile("[\ud800-\udfff]")
# The fields of `POST /collections/NAME/danmaku`; the second are fields that no other format has.
ITEM = {"text", "id", "metadata", "ttl_s", "expires_at", "count"}
ITEM_ONLY = {"metadata", "ttl_s", "expires_at"}
DECODER = json.JSONDecoder()


class JsonRow:
    """Makes rows from values, and remembers which fields no value had, for an error at the end."""

    def __init__(self, name: str, options: Options) -> None:
        self._name, self._options = name, options
        named = {"text_column": options.text_column, "time_column": options.time_column}
        self._missing = {flag: field for flag, field in (named | {"document_field": options.document_field}).items()}
        self._first: list[str] | None = None  # fields of the first object
        self._has_text = False

    def rows(self, value: object) -> Iterator[Row]:
        if isinstance(value, str):
            self._has_text = True
            yield Row(_whole(value))
        elif isinstance(value, dict):
            self._first = self._first or [*value]
            for flag in [flag for flag, field in self._missing.items() if field in value]:
                del self._missing[flag]
            for row in self._of_object(value):
                self._has_text = self._has_text or row.text is not None or row.reason != MALFORMED
                yield row
        else:
            yield MALFORMED_ROW

    def close(self) -> None:
        """Raises RecordingError if no object had the named field: a misspelt one must not become an empty corpus."""
        missing = {flag: field for flag, field in self._missing.items() if field is not None}
        if self._first is None or (self._has_text and not missing):
            return
        flag, field = next(iter(missing.items()), ("text_column", "text"))
        raise RecordingError(
            f"{self._name}: no object has a field {field!r}; the first has {', '.join(map(repr, self._first))}: "
            f"name the right one with --{flag.replace('_', '-')}"
        )

    def _of_object(self, value: dict[str, Any]) -> Iterator[Row]:
        options = self._options
        if options.text_column is None:
            if options.keep_items and _is_item(value):
                text, item_id = value.get("text"), value.get("id")
                if isinstance(item_id, int) and not isinstance(item_id, bool):  # as in a table
                    value = value | {"id": str(item_id)}
                yield Row(text if isinstance(text, str) else "", item=value)
                return
            if (known := _of_tool(value)) is not None:
                yield from known
                return
        field = options.text_column or next((each for each in TEXT if isinstance(value.get(each), str)), "text")
        text = value.get(field)
        time_field = options.time_column or next((each for each in TIME if value.get(each) is not None), None)
        time = split_time(value.get(time_field)) if time_field else None
        if not isinstance(text, str) or (options.time_column and time is None):
            yield MALFORMED_ROW
            return
        seconds, posted_s = time or (None, None)
        if options.document_field is not None:
            document = value.get(options.document_field)
            if not isinstance(document, str | int) or document == "":
                yield MALFORMED_ROW
            else:
                # sorted by time, whatever its kind
                yield Row(
                    _whole(text), MALFORMED, posted_s if seconds is None else seconds, posted_s, None, str(document)
                )
        else:
            yield Row(_whole(text), MALFORMED, seconds, posted_s, posted_s)


def _is_item(value: dict[str, Any]) -> bool:
    return value.keys() <= ITEM or not ITEM_ONLY.isdisjoint(value)


def _of_tool(value: dict[str, Any]) -> list[Row] | None:
    """Returns the rows of an object whose fields identify the tool that wrote it, or None."""
    if isinstance(event := value.get("cmd", value.get("type")), str) and event.isupper():
        data = value if "info" in value else value.get("data")
        return [_of_event(event, data) if isinstance(data, dict) else Row(None, OTHER)]
    if isinstance(action := value.get("replayChatItemAction"), dict):
        return _of_live_chat(action, value.get("videoOffsetTimeMsec", action.get("videoOffsetTimeMsec")))
    if isinstance(p := value.get("p"), str) and isinstance(text := value.get("m"), str):
        fields = read_fields(p)
        if fields is None:
            return [MALFORMED_ROW]
        return [Row(None, SCRIPT) if fields.mode in ("7", "8", "9") else Row(_whole(text), MALFORMED, *fields[:2])]
    if isinstance(kind := value.get("msg_type"), str) and kind != "danmaku":
        return [Row(None, OTHER)]
    if value.get("mode") in (7, 8, 9):
        return [Row(None, SCRIPT)]
    if "mode" in value and value.get("pool") in (1, 2):
        return [Row(None, SUBTITLE)]
    # Protobuf's JSON leaves out what is 0, such as the progress of a danmaku at the beginning.
    if isinstance(text := value.get("content"), str) and ("progress" in value or "midHash" in value):
        milliseconds = number(value.get("progress", 0))
        if milliseconds is None or abs(milliseconds) > 1000 * MAX_VIDEO_S:
            return [MALFORMED_ROW]
        posted = split_time(value.get("ctime"))
        return [Row(_whole(text), MALFORMED, milliseconds / 1000, posted[1] if posted else None)]
    return None


def _of_event(event: str, data: dict[str, Any]) -> Row:
    if isinstance(data.get("cmd"), str):  # bilibili-api wraps the whole event
        event = data["cmd"]
    if event.partition(":")[0] != "DANMU_MSG":
        return Row(None, OTHER)
    try:
        text, time = data["info"][1], split_time(data["info"][0][4])
    except (KeyError, IndexError, TypeError):
        return MALFORMED_ROW
    if not isinstance(text, str):
        return MALFORMED_ROW
    posted_s = time[1] if time else None
    return Row(_whole(text), MALFORMED, None, posted_s, posted_s)


def _of_live_chat(action: dict[str, Any], offset: object) -> list[Row]:
    milliseconds = number(offset)
    seconds = milliseconds / 1000 if milliseconds is not None and abs(milliseconds) <= 1000 * MAX_VIDEO_S else None
    rows = []
    for each in action.get("actions") or []:
        try:
            (kind, renderer), *_ = each["addChatItemAction"]["item"].items()
            if kind != "liveChatTextMessageRenderer":
                rows.append(Row(None, OTHER))
                continue
            runs = renderer["message"]["runs"]
            text = "".join(run.get("text") or run["emoji"]["shortcuts"][0] for run in runs)
            time = split_time(renderer.get("timestampUsec"))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            rows.append(Row(None, OTHER))
        else:
            rows.append(Row(_whole(text), MALFORMED, seconds, time[1] if time else None))
    return rows


def _whole(text: str) -> str:
    """Returns the text without halves of surrogate pairs, which JSON can express and UTF-8 cannot."""
    return HALF.sub("\ufffd", text)


class JsonLines(LineParser):
    def __init__(self, name: str, undecodable: re.Pattern[str] | None, options: Options) -> None:
        super().__init__(undecodable)
        self._row = JsonRow(name, options)

    def line(self, line: str) -> Iterator[Row] | tuple[Row, ...]:
        if not line.strip():
            return ()
        value = load(line)
        return (MALFORMED_ROW,) if value is None else self._row.rows(value)

    def close(self) -> Iterator[Row]:
        yield from super().close()
        self._row.close()


class JsonArray:
    """Parses one array value by value; what follows it, such as the rest of its object, is ignored."""

    def __init__(self, name: str, undecodable: re.Pattern[str] | None, options: Options) -> None:
        self._undecodable = undecodable
        self._row = JsonRow(name, options)
        self._rest = ""
        self._is_begun = self._is_over = False

    def feed(self, text: str) -> Iterator[Row]:
        if self._is_over:
            return
        text = self._rest + text
        place = 0
        if not self._is_begun:
            if (match := ARRAY.match(text)) is None:
                self._rest = text[:MAX_ROW]
                return
            self._is_begun, place = True, match.end()
        while True:
            place = SEPARATOR.match(text, place).end()  # type: ignore[union-attr]  # it matches anywhere
            if text.startswith("]", place):
                self._is_over, self._rest = True, ""
                return
            try:
                value, end = DECODER.raw_decode(text, place)
            except (ValueError, RecursionError):
                break
            if end == len(text) and not isinstance(value, dict | list | str):
                break  # a number may continue
            if self._undecodable is not None and self._undecodable.search(text, place, end):
                yield NOT_TEXT_ROW
            else:
                yield from self._row.rows(value)
            place = end
        self._rest = text[place:]
        if len(self._rest) > MAX_ROW:
            self._is_over, self._rest = True, ""
            yield TOO_LONG

    def close(self) -> Iterator[Row]:
        if self._is_begun and self._rest.strip():
            yield Row(None, "cut off at the end of the file")
        self._row.close()


def load(line: str) -> object:
    """Returns the object or string on a line, or None if it is neither."""
    if not line.lstrip().startswith(("{", '"')):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | str) else None


def is_array(head: str) -> bool:
    """Returns whether a text begins as an array of values, or as an object with such an array in a known field."""
    if (match := ARRAY.match(head)) is None:
        return False
    start = SEPARATOR.match(head, match.end()).end()  # type: ignore[union-attr]
    return start == len(head) or head[start] in '{"]' or (head[start] == "[" and match[0].strip() != "[")
