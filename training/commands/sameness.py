"""`danmaku-train sameness`."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.files import check_writable

NAME = "sameness"
HELP = "learn for a model when two danmaku mean the same, and save the result in its directory"
EXAMPLE = "sameness --model models/danmaku-bert-mini"
NEEDS_TENSORFLOW = False


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a model directory")
    parser.add_argument(
        "--markdown", dest="markdown_path", type=Path, metavar="FILE", help="also write the tables to FILE"
    )


def run(*, model: Path, markdown_path: Path | None) -> None:
    from training.sameness.learn import learn_sameness
    from training.sameness.measure import format_measured, format_related

    if markdown_path:
        check_writable(markdown_path)
    measured, related = learn_sameness(model)
    table = f"{format_measured(measured)}\n{format_related(related)}"
    print(table, end="")
    if markdown_path:
        markdown_path.write_text(table, encoding="utf-8")
