"""`danmaku-train train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.arguments import add_config, report_end
from training.files import parse_location

NAME = "train"
HELP = "pre-train a model, or resume a stopped run"
EXAMPLE = "train training/configs/danmaku-bert-mini.toml --workdir runs/mini"
NEEDS_TENSORFLOW = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "model.hidden_size=64")
    parser.add_argument(
        "--workdir",
        type=parse_location,
        required=True,
        metavar="DIR",
        help="folder of this run; not shared with other runs",
    )
    parser.add_argument(
        "--examples", type=parse_location, metavar="DIR", help="folder that `examples` wrote (WORKDIR/examples)"
    )
    parser.add_argument("--tpu", nargs="?", const="local", metavar="NAME", help="train on a TPU (this machine's)")


def run(*, config: Path, overrides: list[str], workdir: Path, examples: Path | None, tpu: str | None) -> int:
    from training.bert.devices import open_strategy
    from training.bert.train import train
    from training.config import read_config

    settings = read_config(config, overrides)
    newest = train(settings, workdir, examples or workdir / "examples", strategy=open_strategy(tpu))
    return report_end(newest, settings.num_train_steps)
