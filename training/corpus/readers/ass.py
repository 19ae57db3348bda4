r"""Subtitles (ASS) that recorders draw danmaku with: DanmakuRender, and bililive-go.

    Dialogue: 0,00:00:12.34,00:00:27.34,R2L,,0,0,0,,{\move(1920,40,-200,40)}{\alpha&H4C\1cffffff&}text
    Dialogue: 0,0:00:12.34,0:00:24.00,Danmaku,,0,0,44,Banner;6;0;30,{\cffffff}name: text

The style says who wrote the line and what it is: R2L is DanmakuRender's for danmaku; Danmaku is bililive-go's, which
puts the user's name before the text. Lines in other styles are gifts, super chats and boxes around them. The first
of these two leaves out danmaku that would have overlapped: prefer its source, where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.corpus.readers.base import TOO_LONG, Reader, ReaderSettings, Row, lines_of

COLUMNS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
OVERRIDE = re.compile(r"\{\\[^}]*\}")  # with the backslash: viewers write braces too
BREAK = re.compile(r"\\[Nnh]")


def recognises(head: str) -> bool:
    return head.lstrip().lower().startswith("[script info]")


def rows(path: Path, settings: ReaderSettings) -> Iterator[Row]:
    columns, section = COLUMNS, ""
    for line in lines_of(path):
        if line is None:
            yield TOO_LONG
        elif line.startswith("["):
            section = line.strip().lower()
        elif line.startswith("Format:") and section == "[events]":
            columns = [column.strip().lower() for column in line.removeprefix("Format:").split(",")]
        elif line.startswith("Dialogue:"):
            yield _row(line.removeprefix("Dialogue:").lstrip(), columns)


def _row(line: str, columns: list[str]) -> Row:
    values = dict(zip(columns, line.split(",", len(columns) - 1), strict=False))
    start = TIME.fullmatch(values.get("start", "").strip())
    if start is None or "text" not in values:
        return Row(None)
    style = values.get("style", "").strip()
    if style not in ("R2L", "Danmaku"):
        return Row(None, "another style")
    text = BREAK.sub(" ", OVERRIDE.sub("", values["text"]))
    if style == "Danmaku":
        name, colon, text = text.partition(": ")
        if not colon and values.get("effect", "").startswith("Banner"):
            return Row(None)  # whatever it is, it may be a name
        text = text if colon else name
    return Row(text, clock_s=3600 * int(start[1]) + 60 * int(start[2]) + float(start[3]))


READER = Reader("ass", (".ass",), recognises, rows)
