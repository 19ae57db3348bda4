"""`danmaku-train visualise`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NAME = "visualise"
HELP = "plot words by their vectors in one or more models"
EXAMPLE = "visualise --model models/before models/after --output words.html"
NEEDS_TENSORFLOW = False


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, which are the parameters of `visualise()`."""
    parser.add_argument(
        "--model",
        dest="models",
        nargs="+",
        action="extend",
        required=True,
        metavar="SOURCE",
        help="models to plot, one panel each: a model directory or workdir, a gateway (http://HOST:PORT), or a "
        "bert-as-service worker (bert://HOST:PORT:PORT_OUT)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="output file; .png, .svg or .html")
    parser.add_argument(
        "--json", dest="ranks", type=Path, metavar="FILE", help="also write the ranks of the known pairs to FILE"
    )
    parser.add_argument(
        "--neighbours",
        type=int,
        default=0,
        metavar="N",
        help="also print the N nearest neighbours of each word in the last model",
    )
    parser.add_argument(
        "--words", type=Path, metavar="FILE", help="file with one word per line (default: training/pictures/words.txt)"
    )


def run(*, output: Path, **flags: Any) -> None:
    from training.pictures.visualise import visualise

    readings = visualise(output=output, **flags)
    print(output)
    if readings:
        print(f"\n{readings}", end="")
