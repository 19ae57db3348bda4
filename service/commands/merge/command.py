"""Flags and messages of `danmaku merge`; `outputs.py` writes the files."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from pathlib import Path

from service.chat.merging import WINDOW_S
from service.commands.recording_flags import add_embedding_flags, name_outputs
from service.errors import ConfigurationError

NAME = "merge"
HELP = "merge repeated danmaku in recordings"
DESCRIPTION = "Merges and counts danmaku that mean the same within a few seconds, however they are spelt."
EXAMPLE = """example:
  danmaku merge stream.xml --output merged.xml
  danmaku merge recordings/*.xml --output 'merged/{name}.ass' --window 10
  danmaku merge stream.csv --output merged.json --map map.csv
"""
SUFFIXES = (".xml", ".ass", ".json", ".csv")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_embedding_flags(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="output file: .xml, .ass, .json or .csv; {name} stands for the name of each recording",
    )
    parser.add_argument("--map", metavar="FILE", help="also write the group of every danmaku to this .csv file")
    parser.add_argument(
        "--window",
        type=float,
        default=WINDOW_S,
        metavar="S",
        help=f"maximum length of a group in seconds [{WINDOW_S:g}]",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="minimum probability of the same meaning for a merge"
    )
    parser.add_argument(
        "--rule",
        choices=("meaning", "spelling", "identical"),
        default="meaning",
        help="what to merge: the same meaning, the same text in different spellings, or identical texts [meaning]",
    )


def run(parsed: argparse.Namespace) -> int:
    from service.event_loop import run_until_complete

    if not 0 < parsed.window <= 86_400:
        raise ConfigurationError(f"invalid --window: {parsed.window:g}; expected seconds, above 0 and at most 86400")
    if parsed.threshold is not None and not 0 <= parsed.threshold <= 1:
        raise ConfigurationError(f"invalid --threshold: {parsed.threshold:g}; expected 0 to 1")
    outputs = name_outputs("--output", parsed.output, parsed.recordings, SUFFIXES)
    maps = name_outputs("--map", parsed.map, parsed.recordings, (".csv",), outputs) if parsed.map else []
    return run_until_complete(_merge(parsed, outputs, maps))


async def _merge(parsed: argparse.Namespace, outputs: list[Path], maps: list[Path]) -> int:
    from service.chat.merging import Line, merge
    from service.commands.merge.outputs import Merged, write_map, write_merged
    from service.commands.timed_vectors import embed_recordings, is_whole

    status = 0
    async with aclosing(embed_recordings(parsed)) as recordings:
        number = 0
        async for recording in recordings:
            lines = [Line(line.text, line.seconds, str(line.number)) for line in recording.timed.lines]
            options = {"window_s": parsed.window, "threshold": parsed.threshold, "rule": parsed.rule}
            groups = merge(lines, recording.vectors, recording.judge, **options)
            merged = Merged(recording, groups, options)
            write_merged(outputs[number], merged)
            if maps:
                write_map(maps[number], merged)
            saved = 1 - len(groups) / len(lines)
            print(f"{outputs[number]}: {len(lines):,} danmaku in {len(groups):,} groups, {saved:.1%} merged away")
            status |= not (parsed.lenient or is_whole(recording.timed))
            number += 1
    return int(status)
