"""`danmaku-train update`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from training.arguments import STOPPED, add_heldout, add_overrides, add_paths
from training.files import check_writable

NAME = "update"
HELP = "train a model further on new recordings and a replay of old ones, unless that makes it worse"
EXAMPLE = "update --model models/danmaku-bert-mini --input last-month --replay danmaku_dataset --output models/updated"
NEEDS_TENSORFLOW = True
CONFIG = Path(__file__).parents[1] / "configs" / "update.toml"
LOST = 1  # exit status


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags. Those that `run` does not name are parameters of `update()`."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model to train further")
    add_paths(parser, "--input", "recordings", "new recordings, in a format with times")
    add_paths(parser, "--replay", "replay", "old recordings, for training and for evaluation")
    add_heldout(parser, "share of the documents to hold out for evaluation (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="model directory to write")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="folder of this run (default: OUTPUT.run)")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="TOML file (default: update.toml)")
    add_overrides(parser, "num_train_steps=50")
    parser.add_argument("--json", dest="json_path", type=Path, metavar="FILE", help="also write the results to FILE")


def run(
    *, config: Path, overrides: list[str], output: Path, workdir: Path | None, json_path: Path | None, **flags: Any
) -> int:
    from training.config import read_align_config
    from training.evaluation.tables import write_json
    from training.update import update

    if json_path:
        check_writable(json_path)
    workdir = workdir or output.with_name(f"{output.name}.run")
    found = update(read_align_config(config, overrides), workdir=workdir, output=output, **flags)
    if found is None:
        print(f"{workdir}: stopped; run the same command to resume")
        return STOPPED
    print(found.markdown(), end="")
    if json_path:
        write_json(json_path, found.changes)
    if found.losses:
        print(f"danmaku-train: not exported: worse than before on {', '.join(found.losses)}", file=sys.stderr)
        return LOST
    print(output)
    return 0
