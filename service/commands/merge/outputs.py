"""Formats of `danmaku merge`, by suffix. A group is shown at the time of its first danmaku, as `text ×count`.

.xml   as Bilibili's players read it, drawn as the danmaku whose spelling the group has
.ass   the same, laid out by biliass
.json  groups with the numbers of their danmaku, in the order of the file from 0
.csv   seconds, text, count and last second of a group
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import orjson

from service.chat.merging import Group
from service.commands.csv_rows import to_csv
from service.commands.timed_vectors import TimedVectors
from service.errors import ConfigurationError
from service.recordings.base import Style

NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
STAGE = (1920, 1080)  # pixels
FONT_SIZE = 42.0  # of ASS, for the stage
CROSSING_S = 10.0  # of a danmaku over the stage


@dataclass(frozen=True)
class Merged:
    recording: TimedVectors
    groups: list[Group]
    options: dict[str, Any]


def write_merged(path: Path, merged: Merged) -> None:
    write = {".xml": _to_xml, ".ass": _to_ass, ".json": _to_json, ".csv": _to_csv}
    replace_file(path, write[path.suffix](merged))


def write_map(path: Path, merged: Merged) -> None:
    """Writes the group of every danmaku in the order of the file: its number from 0, its text and count."""
    group_of = {int(line): number for number, group in enumerate(merged.groups) for line in group.ids}
    rows = []
    for line in sorted(merged.recording.timed.lines, key=lambda line: line.number):
        number = group_of[line.number]
        group = merged.groups[number]
        rows.append([line.number, f"{line.seconds:.3f}", line.text, number, group.text, group.count])
    replace_file(path, to_csv([["line", "seconds", "text", "group", "group_text", "group_count"], *rows]))


def replace_file(path: Path, content: bytes) -> None:
    """Replaces a file, or the one that a symbolic link names, as a whole or not at all."""
    path = path.resolve()
    draft = path.with_name(path.name + ".tmp")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _to_xml(merged: Merged) -> bytes:
    styles = {line.number: (line.text, line.style or Style()) for line in merged.recording.timed.lines}
    rows = ['<?xml version="1.0" encoding="UTF-8"?>', "<i>"]
    for number, group in enumerate(merged.groups, 1):
        of_group = (styles[int(line)] for line in group.ids)
        mode, size, colour = next(style for text, style in of_group if text == group.text)
        text = escape(NOT_XML.sub("", _format(group)))
        rows.append(f'<d p="{group.first:.3f},{mode},{size},{colour},0,0,0,{number}">{text}</d>')
    return "\n".join([*rows, "</i>", ""]).encode()


def _to_ass(merged: Merged) -> bytes:
    try:
        from biliass import convert_to_ass
    except ModuleNotFoundError:
        raise ConfigurationError(
            "ASS requires biliass; run pip install 'danmaku-embedding[ass]', or use another suffix"
        ) from None
    text: str = convert_to_ass(
        _to_xml(merged), *STAGE, font_size=FONT_SIZE, duration_marquee=CROSSING_S, reduce_comments=False
    )
    return text.encode()


def _to_json(merged: Merged) -> bytes:
    groups = [
        {"text": g.text, "count": g.count, "first": g.first, "last": g.last, "lines": sorted(map(int, g.ids))}
        for g in merged.groups
    ]
    recording = merged.recording
    about = {"model": recording.model, "fingerprint": recording.fingerprint, **merged.options}
    return orjson.dumps(
        {**about, "lines": len(recording.timed.lines), "groups": groups},
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def _to_csv(merged: Merged) -> bytes:
    rows = [[f"{group.first:.3f}", group.text, group.count, f"{group.last:.3f}"] for group in merged.groups]
    return to_csv([["seconds", "text", "count", "last"], *rows])


def _format(group: Group) -> str:
    return f"{group.text} ×{group.count}" if group.count > 1 else group.text
