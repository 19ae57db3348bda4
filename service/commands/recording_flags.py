"""The flags of every command that reads recordings: what cannot be told from a file."""

from __future__ import annotations

import argparse
from typing import Any

from service.recordings import FORMATS, Options


def add_recording_flags(parser: argparse.ArgumentParser, *, encoding_flag: str = "--encoding") -> None:
    group = parser.add_argument_group("recordings", "How to read them, where a file does not tell; docs/recordings.md.")
    group.add_argument("--format", choices=FORMATS, help="of all files; default: each is recognised")
    group.add_argument(
        encoding_flag,
        dest="file_encoding",
        metavar="NAME",
        help="of all files; default: each is recognised",
    )
    group.add_argument("--text-column", metavar="NAME|N", help="CSV, JSON: the column or field with the danmaku")
    group.add_argument("--time-column", metavar="NAME|N", help="CSV, JSON: … with seconds into the video, or the date")
    group.add_argument("--lenient", action="store_true", help="exit status 0 even if something could not be read")


def recording_options(parsed: argparse.Namespace, **more: Any) -> Options:
    return Options(parsed.format, parsed.file_encoding, parsed.text_column, parsed.time_column, **more)
