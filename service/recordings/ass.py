r"""Parses ASS subtitles that tools use to draw danmaku.

    Dialogue: 0,00:00:12.34,00:00:27.34,R2L,,0,0,0,,{\move(1920,40,-200,40)}{\alpha&H4C\1cffffff&}text
    Dialogue: 0,0:00:12.34,0:00:24.00,Danmaku,,0,0,44,Banner;6;0;30,{\cffffff}name: text

The style identifies a line. R2L, L2R, TOP and BTM are DanmakuFactory's and DanmakuRender's; Danmaku2ASS gives each file
its own style, `Danmaku2ASS_` and a number; Danmaku is bililive-go's, which puts the user's name before the text. Lines
in other styles are gifts, super chats, boxes around them, or real subtitles. DanmakuRender leaves out danmaku that
would have overlapped: prefer its source, if available.
"""

from __future__ import annotations

import re

from service.recordings.base import MALFORMED_ROW, LineParser, Row

COLUMNS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
OVERRIDE = re.compile(r"\{\\[^}]*\}")  # with the backslash: viewers write braces too
BREAK = re.compile(r"\\[Nnh]")
STYLES = re.compile(r"R2L|L2R|TOP|BTM|BOTTOM|Danmaku|Danmaku2ASS_\w+", re.IGNORECASE)
WITH_NAME = "danmaku"  # bililive-go's


def recognises(head: str) -> bool:
    return head.lstrip().lower().startswith("[script info]")


class Ass(LineParser):
    def __init__(self, undecodable: re.Pattern[str] | None) -> None:
        super().__init__(undecodable)
        self._columns, self._section = COLUMNS, ""

    def line(self, line: str) -> tuple[Row, ...]:
        if line.startswith("["):
            self._section = line.strip().lower()
        elif line.startswith("Format:") and self._section == "[events]":
            self._columns = [column.strip().lower() for column in line.removeprefix("Format:").split(",")]
        elif line.startswith("Dialogue:"):
            return (_row(line.removeprefix("Dialogue:").lstrip(), self._columns),)
        return ()


def _row(line: str, columns: list[str]) -> Row:
    values = dict(zip(columns, line.split(",", len(columns) - 1), strict=False))
    start = TIME.fullmatch(values.get("start", "").strip())
    if start is None or "text" not in values:
        return MALFORMED_ROW
    style = values.get("style", "").strip()
    if not STYLES.fullmatch(style):
        return Row(None, f"style {style}" if len(style) <= 40 else "another style")
    text = BREAK.sub(" ", OVERRIDE.sub("", values["text"]))
    if style.lower() == WITH_NAME:
        name, colon, text = text.partition(": ")
        if not colon and values.get("effect", "").startswith("Banner"):
            return MALFORMED_ROW  # whatever it is, it may be a name
        text = text if colon else name
    seconds = round(3600 * int(start[1]) + 60 * int(start[2]) + float(start[3]), 3)
    return Row(text, seconds=seconds, clock_s=seconds)
