"""`danmaku-train align`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.arguments import add_config, add_heldout, add_paths, report_end

NAME = "align"
HELP = "train a model so that texts with similar meanings have similar vectors, while it stays a language model"
EXAMPLE = (
    "align training/configs/danmaku-bert-mini-tasks.toml --model models/danmaku-bert-mini --input danmaku_dataset "
    "--general general_zh --workdir runs/aligned"
)
NEEDS_TENSORFLOW = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags. Those that `run` does not name are parameters of `align()`."""
    add_config(parser, "temperature=0.1")
    add_paths(
        parser,
        "--model",
        "models",
        "pre-trained models or workdirs of one lineage; training starts from their mean",
        metavar="DIR",
    )
    add_paths(parser, "--input", "recordings", "recordings, as for `clean`, in a format with times")
    parser.add_argument(
        "--general",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="general texts: .txt files with one text per line",
    )
    add_heldout(parser, "share of the documents to hold out, as in `clean` (%(default)s)")
    parser.add_argument(
        "--workdir", type=Path, required=True, metavar="DIR", help="folder of this run; not shared with other runs"
    )


def run(*, config: Path, overrides: list[str], **flags: Any) -> int:
    from training.alignment.align import align
    from training.config import read_align_config

    settings = read_align_config(config, overrides)
    return report_end(align(settings, **flags), settings.num_train_steps)
