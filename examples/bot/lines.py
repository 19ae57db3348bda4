"""What a recorder writes, chunk by chunk, as lines: XML of blrec, BililiveRecorder or Bilibili, NDJSON, CSV or text.

The format is told from the beginning. A recorder is still writing, so a chunk may end anywhere, even within a
character; what is not whole yet waits for the next chunk. What is no danmaku (gifts, scripts) is passed over.
"""

from __future__ import annotations

import codecs
import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

# A danmaku; or the style sheet of BililiveRecorder, which speaks of danmaku, too, and may not have ended yet.
ELEMENT = re.compile(
    r"""<d\s(?P<attributes>(?:[^<>"']|"[^"]*"|'[^']*')*)>(?P<text>[^<]*)</d>"""
    r"""|<BililiveRecorderXmlStyle>(?:.*?(?P<end></BililiveRecorderXmlStyle>))?""",
    re.DOTALL,
)
P = re.compile(r"""\bp=["']([^"']*)["']""")
# text,seconds into the video,posted at; without quotes, and the text may hold commas
CSV = re.compile(r"^(.*),(\d+(?:\.\d+)?),\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\r?$", re.MULTILINE)
SCRIPT_MODES = ("7", "8", "9")
SCRIPT_POOLS = ("1", "2")  # subtitles are in the first
IN_MILLISECONDS = 10**11  # a Unix time beyond is not in seconds


@dataclass(frozen=True)
class Line:
    text: str
    at_s: float | None = None  # into the stream, or of posting: only differences count; None: it was not told


class Format(Protocol):
    def lines(self, text: str) -> Iterator[Line]: ...


class Reader:
    """Bytes in, lines out. Who begins in the middle of a file gives its head, by which the format is known."""

    def __init__(self, head: bytes = b"") -> None:
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
        self._format = _format_of(head.decode("utf-8-sig", errors="replace"))

    def feed(self, chunk: bytes, *, is_last: bool = False) -> Iterator[Line]:
        text = self._decode(chunk, is_last)
        self._format = self._format or _format_of(text)
        if self._format:
            yield from self._format.lines(text + "\n" if is_last else text)


def _format_of(head: str) -> Format | None:
    if CSV.search(head):
        return Rows(_of_csv)
    match head.lstrip()[:1]:
        case "":
            return None
        case "<":
            return Xml()
        case "{" | '"':
            return Rows(_of_json)
        case _:
            return Rows(_of_text)


class Xml:
    """Not parsed as XML: there is no end of the file yet, and what viewers write breaks the rules of XML."""

    def __init__(self) -> None:
        self._rest = ""

    def lines(self, text: str) -> Iterator[Line]:
        text = self._rest + text
        end = 0
        for match in ELEMENT.finditer(text):
            if match["text"] is not None:
                p = P.search(match["attributes"])
                fields = p[1].split(",") if p else []
                if len(fields) > 5 and fields[1] not in SCRIPT_MODES and fields[5] not in SCRIPT_POOLS:
                    yield Line(html.unescape(match["text"]), _seconds(fields[0]))
            elif not match["end"]:
                self._rest = text[match.start() :]
                return
            end = match.end()
        begun = text.rfind("<d", end)  # perhaps a danmaku of which the rest is to come
        if begun < 0:
            begun = text.rfind("<", end)  # perhaps of its first character
        self._rest = text[begun:] if begun >= 0 else ""


class Rows:
    """A danmaku a line, which `read` knows to read."""

    def __init__(self, read: Callable[[str], Line | None]) -> None:
        self._read = read
        self._rest = ""

    def lines(self, text: str) -> Iterator[Line]:
        *rows, self._rest = (self._rest + text).split("\n")
        for row in rows:
            if line := self._read(row.removesuffix("\r")):
                yield line


def _of_text(row: str) -> Line | None:
    return Line(row) if row.strip() else None


def _of_csv(row: str) -> Line | None:
    match = CSV.match(row)
    return Line(match[1], float(match[2])) if match else None


def _of_json(row: str) -> Line | None:
    """A string, or an object with `text` and perhaps `time` or `ts`."""
    try:
        content = json.loads(row)
    except ValueError:
        return None
    if isinstance(content, str):
        return Line(content)
    if not isinstance(content, dict) or not isinstance(text := content.get("text"), str):
        return None
    return Line(text, _seconds(content.get("time", content.get("ts"))))


def _seconds(value: object) -> float | None:
    try:
        seconds = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        return None
    return seconds / 1000 if seconds > IN_MILLISECONDS else seconds
