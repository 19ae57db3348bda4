"""Flags and messages of `danmaku embed`; `file.py` does the work."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.flags import add_settings, given_settings
from service.commands.recording_flags import add_recording_flags, recording_options
from service.errors import ConfigurationError
from service.settings import Settings

if TYPE_CHECKING:
    from service.commands.embed.work_file import Progress

NAME = "embed"
HELP = "turn a file of danmaku into a file of vectors"
DESCRIPTION = "Embeds one danmaku per line. You can stop it at any time; run the same command again to resume."
EXAMPLE = """example:
  danmaku embed danmaku.txt --output danmaku.npy
  zcat danmaku.txt.gz | danmaku embed - --output danmaku.parquet --url http://127.0.0.1:8000
"""
SETTINGS = (
    "encoder",
    "pooling_layer",
    "pooling_strategy",
    "max_seq_len",
    "precision",
    "device",
    "threads",
    "cache",
    "cache_bytes",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="FILE", help="recording, or text file with one danmaku per line; - reads standard input"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="output file: .npy is a matrix, with rows of NaN for texts without a vector; .ndjson and .parquet include "
        "texts and errors",
    )
    parser.add_argument(
        "--url",
        help="URL of a gateway (http://HOST:8000); DANMAKU_API_KEY holds its API key [embed in this process]",
    )
    parser.add_argument("--normalize", action="store_true", help="scale every vector to length 1")
    parser.add_argument("--quiet", action="store_true", help="hide the progress bar")
    add_recording_flags(parser)
    add_settings(parser.add_argument_group("without --url"), SETTINGS)


def run(parsed: argparse.Namespace) -> int:
    from service.commands.embed.file import embed_file, open_gateway, open_model
    from service.commands.embed.outputs import open_output
    from service.event_loop import run_until_complete
    from service.recordings.lines import open_lines, open_pipe

    output, given = open_output(parsed.output), given_settings(parsed)
    if parsed.url and given:
        flag = next(iter(given)).replace("_", "-")
        raise ConfigurationError(
            f"invalid --{flag}: the gateway at --url has its own settings; expected only one of the two"
        )
    options = {"normalize": parsed.normalize}
    embedder = open_gateway(parsed.url, **options) if parsed.url else open_model(Settings(**given), **options)
    try:
        if parsed.input == "-":
            source, read = open_pipe(sys.stdin.buffer, "standard input", recording_options(parsed))
        else:
            source, read = open_lines(Path(parsed.input), recording_options(parsed))
        with source:
            work = embed_file(source, parsed.output, output, embedder, **options, quiet=parsed.quiet)
            progress = run_until_complete(work)
    except KeyboardInterrupt:
        print("danmaku embed: stopped; run the same command to resume", file=sys.stderr)
        return 130
    print(_format_summary(progress, parsed.output))
    if read and read.dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in read.dropped.most_common())
        print(f"danmaku embed: not danmaku, and left out: {reasons}", file=sys.stderr)
    return 1 if read and read.unreadable and not parsed.lenient else 0


def _format_summary(progress: Progress, path: Path) -> str:
    without = sum(progress.errors.values())
    reasons = ", ".join(f"{count:,} {error_type}" for error_type, count in sorted(progress.errors.items()))
    return (
        f"{path}: {progress.lines:,} lines, {without:,} without a vector{f' ({reasons})' if reasons else ''}, "
        f"{progress.truncated:,} truncated; {progress.model}, {progress.dim} numbers each, "
        f"fingerprint {progress.fingerprint}"
    )
