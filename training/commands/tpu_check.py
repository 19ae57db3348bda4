"""`danmaku-train tpu-check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.arguments import add_config

NAME = "tpu-check"
HELP = "check, without a TPU, that the training step of a config compiles for a TPU and fits its memory"
EXAMPLE = "tpu-check training/configs/tiny.toml --max-seq-length 32 --vocab-size 300"
NEEDS_TENSORFLOW = False  # in this process
DOES_NOT_FIT = 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags. Those that `run` does not name are parameters of `tpu_check()`."""
    add_config(parser, "batch_size=8192")
    parser.add_argument(
        "--topology", default="v3:2x2", help="TPU topology; v3 and older have two cores per chip (%(default)s)"
    )
    parser.add_argument(
        "--vocab-size", type=int, default=21128, metavar="N", help="tokens in the vocabulary (%(default)s: Google's)"
    )
    parser.add_argument("--max-seq-length", type=int, default=64, metavar="N", help="tokens per example (%(default)s)")
    parser.add_argument(
        "--max-predictions-per-seq",
        type=int,
        default=10,
        metavar="N",
        help="maximum masked tokens per example (%(default)s)",
    )


def run(*, config: Path, overrides: list[str], **flags: Any) -> int:
    from training.config import read_config
    from training.tpu.check import tpu_check

    verdict = tpu_check(read_config(config, overrides), **flags)
    print(verdict)
    return 0 if verdict.fits else DOES_NOT_FIT
