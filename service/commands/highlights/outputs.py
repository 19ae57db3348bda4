"""Writes the output formats of `danmaku highlights`, by suffix.

.json  the response of POST /highlights: curves and peaks
.csv   a row per peak, the highest first
.edl   an edit decision list (CMX 3600) in order of time. Times are whole seconds, so that they are right at any
       frame rate
.png   the picture, drawn by resvg
.html  the picture with details on hover; one file that loads nothing
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from service.chat.highlights import STEP_S, Highlights
from service.commands.csv_rows import to_csv
from service.commands.highlights.picture import (
    draw_page,
    draw_picture,
    format_representatives,
    format_time,
)
from service.commands.merge.outputs import replace_file
from service.commands.timed_vectors import TimedVectors
from service.errors import ConfigurationError

COLUMNS = ["start", "end", "at", "score", "lines", "kind", "representatives"]


@dataclass(frozen=True)
class Found:
    recording: TimedVectors
    highlights: Highlights

    @property
    def name(self) -> str:
        return self.recording.path.stem


def write_found(path: Path, found: Found) -> None:
    write = {".json": _to_json, ".csv": _to_csv, ".edl": _to_edl, ".png": _to_png, ".html": _to_html}
    replace_file(path, write[path.suffix](found))


def format_table(found: Found) -> str:
    rows = [f"{found.recording.path}\n"]
    for peak in found.highlights.peaks:
        rows.append(
            f"  {format_time(peak.start)} – {format_time(peak.end)}  {peak.score:6.1f}  {peak.kind:14}  "
            f"{format_representatives(peak)}\n"
        )
    return "".join(rows)


def _to_json(found: Found) -> bytes:
    highlights, recording = found.highlights, found.recording
    content = {
        "model": recording.model,
        "fingerprint": recording.fingerprint,
        "start": highlights.start,
        "step_s": STEP_S,
        "curve": [round(value, 2) for value in highlights.curve.tolist()],
        "density": [int(value) for value in highlights.density],
        "peaks": [asdict(peak) for peak in highlights.peaks],
    }
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _to_csv(found: Found) -> bytes:
    rows = []
    for peak in found.highlights.peaks:
        times = [f"{time:.1f}" for time in (peak.start, peak.end, peak.at)]
        rows.append([*times, f"{peak.score:.1f}", peak.lines, peak.kind, format_representatives(peak)])
    return to_csv([COLUMNS, *rows])


def _to_edl(found: Found) -> bytes:
    rows = [f"TITLE: {found.name}", "FCM: NON-DROP FRAME", ""]
    recorded = 0
    for number, peak in enumerate(sorted(found.highlights.peaks, key=lambda peak: peak.start), 1):
        start, end = int(max(0, peak.start)), int(peak.end) + 1
        times = (start, end, recorded, recorded + end - start)
        recorded += end - start
        rows.append(f"{number:03}  AX       V     C        " + " ".join(f"{format_time(time)}:00" for time in times))
        rows.append(f"* COMMENT: {peak.kind}: {format_representatives(peak)}")
    return "\n".join([*rows, ""]).encode("utf-8", "replace")


def _to_png(found: Found) -> bytes:
    try:
        from resvg_py import svg_to_bytes
    except ModuleNotFoundError:
        raise ConfigurationError(
            "PNG requires resvg-py; run pip install 'danmaku-embedding[picture]', or use another suffix"
        ) from None
    return bytes(svg_to_bytes(svg_string=draw_picture(found.name, found.highlights), background="#ffffff", zoom=2))


def _to_html(found: Found) -> bytes:
    return draw_page(found.name, found.highlights).encode("utf-8", "replace")
