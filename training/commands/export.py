"""`danmaku-train export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.files import parse_location

NAME = "export"
HELP = "write the model of a run to a model directory"
EXAMPLE = "export --workdir runs/mini --output models/mini"
NEEDS_TENSORFLOW = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, which are the parameters of `export()`."""
    parser.add_argument("--workdir", type=parse_location, required=True, metavar="DIR", help="the folder of the run")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the model directory to write")
    parser.add_argument("--step", type=int, metavar="N", help="(default: the newest; 0: the untrained model)")
    parser.add_argument("--mix", type=Path, metavar="DIR", help="a model of the same lineage: export the mean with it")
    parser.add_argument(
        "--mix-share", type=float, default=0.5, metavar="SHARE", help="weight of --mix in the mean (%(default)s)"
    )


def run(**flags: Any) -> None:
    from training.bert.export import export

    print(export(**flags))
