"""Flags and messages of `danmaku highlights`; `outputs.py` writes the files, `picture.py` draws."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from pathlib import Path

from service.commands.recording_flags import add_embedding_flags, name_outputs
from service.errors import ConfigurationError

NAME = "highlights"
HELP = "find the highlights of recordings"
DESCRIPTION = (
    "Finds the moments when viewers say something more often than at other times. What a room says all the time, "
    "greetings at the start, farewells at the end and copies of a text count little."
)
EXAMPLE = """example:
  danmaku highlights stream.xml
  danmaku highlights stream.xml --output stream.html --output stream.edl --count 5
  danmaku highlights recordings/*.xml --output 'highlights/{name}.png'
"""
SUFFIXES = (".json", ".csv", ".edl", ".png", ".html")
MOST = 100


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_embedding_flags(parser)
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help="output file: .json, .csv, .edl for video editors, .png or .html; may be repeated; {name} stands for the "
        "name of each recording [a table on standard output]",
    )
    parser.add_argument("--count", type=int, default=10, metavar="N", help="maximum number of highlights [10]")


def run(parsed: argparse.Namespace) -> int:
    from service.event_loop import run_until_complete

    if not 1 <= parsed.count <= MOST:
        raise ConfigurationError(f"invalid --count: {parsed.count}; expected 1 to {MOST}")
    outputs: list[list[Path]] = []
    for pattern in parsed.output:
        earlier = [path for paths in outputs for path in paths]
        outputs.append(name_outputs("--output", pattern, parsed.recordings, SUFFIXES, earlier))
    return run_until_complete(_find(parsed, outputs))


async def _find(parsed: argparse.Namespace, outputs: list[list[Path]]) -> int:
    from service.chat.highlights import Kinds, find_highlights, read_kinds
    from service.chat.merging import Line
    from service.commands.highlights.outputs import Found, format_table, write_found
    from service.commands.timed_vectors import embed_recordings, is_whole

    names, examples = zip(*read_kinds(), strict=True)
    status, number = 0, 0
    async with aclosing(embed_recordings(parsed, examples)) as recordings:
        async for recording in recordings:
            lines = [Line(line.text, line.seconds, str(line.number)) for line in recording.timed.lines]
            kinds = Kinds(names, recording.extra)
            found = Found(
                recording, find_highlights(lines, recording.vectors, recording.judge, kinds, most=parsed.count)
            )
            for paths in outputs:
                write_found(paths[number], found)
                print(f"{paths[number]}: {len(found.highlights.peaks)} highlights of {len(lines):,} danmaku")
            if not outputs:
                print(format_table(found), end="")
            status |= not (parsed.lenient or is_whole(recording.timed))
            number += 1
    return int(status)
