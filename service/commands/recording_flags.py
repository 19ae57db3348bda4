"""Defines the flags of commands that read recordings: options that a file does not determine, and outputs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.commands.flags import add_settings
from service.errors import ConfigurationError
from service.recordings import FORMATS, Options

EMBEDDING = ("encoder", "max_seq_len", "precision", "device", "threads")


def add_recording_flags(parser: argparse.ArgumentParser, *, encoding_flag: str = "--encoding") -> None:
    group = parser.add_argument_group("recordings", "How to read recordings; see docs/recordings.md.")
    group.add_argument("--format", choices=FORMATS, help="format of all files [detected per file]")
    group.add_argument(
        encoding_flag,
        dest="file_encoding",
        metavar="NAME",
        help="character encoding of all files [detected per file]",
    )
    group.add_argument("--text-column", metavar="NAME|N", help="CSV, JSON: column or field of the text")
    group.add_argument(
        "--time-column", metavar="NAME|N", help="CSV, JSON: column or field of the time, in seconds or as a date"
    )
    group.add_argument("--lenient", action="store_true", help="exit with status 0 even if some input could not be read")


def recording_options(parsed: argparse.Namespace, **more: Any) -> Options:
    return Options(parsed.format, parsed.file_encoding, parsed.text_column, parsed.time_column, **more)


def add_embedding_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of commands that embed recordings in this process with `embed_recordings`."""
    parser.add_argument(
        "recordings", metavar="RECORDING", nargs="+", type=Path, help="recordings; see docs/recordings.md"
    )
    parser.add_argument("--quiet", action="store_true", help="hide the progress bar")
    add_recording_flags(parser)
    add_settings(parser.add_argument_group("embedding"), EMBEDDING)


def name_outputs(
    flag: str, pattern: str, recordings: Sequence[Path], suffixes: Sequence[str], other_outputs: Sequence[Path] = ()
) -> list[Path]:
    """Returns the output of each recording: `pattern`, with the recording's name in the place of {name}.

    Raises ConfigurationError for a suffix that is not one of `suffixes`, for a folder that does not exist, and for an
    output that is written twice, or that is a recording or one of `other_outputs`.
    """
    paths = [Path(pattern.replace("{name}", recording.stem)) for recording in recordings]
    used = {path.resolve() for path in (*recordings, *other_outputs)}
    for path in paths:
        if path.suffix not in suffixes:
            raise ConfigurationError(f"invalid {flag}: {path}; expected a name that ends in {', '.join(suffixes)}")
        if not path.parent.is_dir():
            raise ConfigurationError(f"invalid {flag}: {path}; expected an existing folder")
        if path.resolve() in used:
            hint = "" if "{name}" in pattern else "; {name} in it stands for the name of the recording"
            raise ConfigurationError(f"invalid {flag}: {path} is read or written already; expected another name{hint}")
        used.add(path.resolve())
    return paths
