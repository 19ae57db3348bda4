"""`danmaku-train align`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.arguments import add_config, add_heldout, add_paths, report_end

NAME = "align"
HELP = "train a model on several tasks at once, so that near vectors mean alike and it stays a language model"
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
        "pre-trained models of one lineage, or workdirs: starts from their mean",
        metavar="DIR",
    )
    add_paths(parser, "--input", "recordings", "recordings, as for `clean`, in a format that has times")
    parser.add_argument(
        "--general",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="general texts: .txt files with a text a line",
    )
    add_heldout(parser, "share of the documents to leave out, as in `clean` (%(default)s)")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="the run's own folder; not shared")


def run(*, config: Path, overrides: list[str], **flags: Any) -> int:
    from training.alignment.align import align
    from training.config import read_align_config

    settings = read_align_config(config, overrides)
    return report_end(align(settings, **flags), settings.num_train_steps)
