"""`danmaku-train align`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.arguments import add_config, add_heldout, add_paths, report_end

NAME = "align"
HELP = "train a model on what is written at the same moments, so that near vectors mean alike"
EXAMPLE = (
    "align training/configs/danmaku-bert-mini-align.toml --model models/danmaku-bert-mini --input danmaku_dataset "
    "--workdir runs/aligned"
)
NEEDS_TENSORFLOW = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags. Those that `run` does not name are parameters of `align()`."""
    add_config(parser, "temperature=0.1")
    parser.add_argument(
        "--model",
        dest="model_directory",
        type=Path,
        required=True,
        metavar="DIR",
        help="a pre-trained model, or a workdir",
    )
    add_paths(parser, "--input", "recordings", "recordings, as for `clean`, in a format that has times")
    add_heldout(parser, "share of the documents to leave out, as in `clean` (%(default)s)")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="the run's own folder; not shared")


def run(*, config: Path, overrides: list[str], **flags: Any) -> int:
    from training.alignment.align import align
    from training.config import read_align_config

    settings = read_align_config(config, overrides)
    return report_end(align(settings, **flags), settings.num_train_steps)
