"""`danmaku-train export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.files import parse_location

NAME = "export"
HELP = "export the model of a run, or a model directory, for serving or other libraries"
EXAMPLE = "export --workdir runs/mini --output models/mini"
NEEDS_TENSORFLOW = True  # only for its own format


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, which are the parameters of `export()`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", type=parse_location, metavar="DIR", help="folder of the run")
    source.add_argument("--model", type=Path, metavar="DIR", help="model directory, instead of --workdir")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="directory or file to write")
    parser.add_argument(
        "--format",
        dest="layout",
        choices=("tensorflow", "huggingface", "onnx"),
        default="tensorflow",
        help="tensorflow: a directory for this service and bert-as-service; huggingface: one for transformers and "
        "sentence-transformers; onnx: a file for ONNX Runtime [%(default)s]",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="step to export (default: the newest; 0: the untrained model)"
    )
    parser.add_argument("--mix", type=Path, metavar="DIR", help="model of the same lineage; exports the mean of both")
    parser.add_argument(
        "--mix-share", type=float, default=0.5, metavar="SHARE", help="weight of --mix in the mean (%(default)s)"
    )


def run(**flags: Any) -> None:
    from training.bert.export import export

    print(export(**flags))
