"""`danmaku embed`: its flags, and what it says. The work is in `bulk.py`, imported when it is to be done."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.commands.flags import add_settings, given_settings, print_faults
from service.errors import ConfigurationError, DanmakuError
from service.event_loop import run_until_complete
from service.settings import Settings

if TYPE_CHECKING:
    from service.commands.embed.work_file import Note

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
    "threads",
    "cache",
    "cache_bytes",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="FILE", help="a danmaku a line, UTF-8; - reads from a pipe")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="X.npy, a matrix with rows of NaN where there is no vector; X.ndjson or X.parquet, with texts and reasons",
    )
    parser.add_argument(
        "--url",
        help="a gateway that embeds, as http://127.0.0.1:8000; if it wants a key, put it into the variable "
        "DANMAKU_API_KEY. Default: this process embeds.",
    )
    parser.add_argument("--normalize", action="store_true", help="scale every vector to length 1")
    parser.add_argument(
        "--quiet", action="store_true", help="no progress bar; there is none without a terminal, either"
    )
    add_settings(parser.add_argument_group("in this process"), SETTINGS)


def run(parsed: argparse.Namespace) -> int:
    from danmaku_client import GatewayError

    from service.commands.embed.file import embed_file, gateway, this_process
    from service.commands.embed.outputs import open_output

    try:
        output, given = open_output(parsed.output), given_settings(parsed)
        if parsed.url and given:
            flag = next(iter(given)).replace("_", "-")
            raise ConfigurationError(f"--url asks a gateway, which has settings of its own: leave out --{flag}")
        how = {"normalize": parsed.normalize}
        opened = gateway(parsed.url, **how) if parsed.url else this_process(Settings(**given), **how)
        with nullcontext(sys.stdin.buffer) if parsed.input == "-" else open(parsed.input, "rb") as source:
            note = run_until_complete(embed_file(source, parsed.output, output, opened, **how, quiet=parsed.quiet))
    except ValidationError as error:
        print_faults("danmaku embed", error)
        return 2
    except (DanmakuError, GatewayError, SettingsError, OSError) as error:
        print(f"danmaku embed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("danmaku embed: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    print(_told(note, parsed.output))
    return 0


def _told(note: Note, path: Path) -> str:
    without = sum(note.errors.values())
    reasons = ", ".join(f"{count:,} {error_type}" for error_type, count in sorted(note.errors.items()))
    return (
        f"{path}: {note.lines:,} lines, {without:,} without a vector{f' ({reasons})' if reasons else ''}, "
        f"{note.truncated:,} truncated; {note.model}, {note.dim} numbers each, fingerprint {note.fingerprint}"
    )
