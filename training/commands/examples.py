"""`danmaku-train examples`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.arguments import print_report
from training.files import parse_location

NAME = "examples"
HELP = "turn a cleaned corpus into TFRecord shards"
EXAMPLE = "examples --input corpus --output runs/mini/examples"
NEEDS_TENSORFLOW = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags. Those that `run` does not name are the fields of ExampleSettings."""
    parser.add_argument(
        "--input", dest="corpus", type=Path, required=True, metavar="DIR", help="folder that `clean` wrote"
    )
    parser.add_argument(
        "--output",
        type=parse_location,
        required=True,
        metavar="DIR",
        help="folder to write train-*.tfrecord and other files to",
    )
    parser.add_argument("--max-seq-length", type=int, default=64, metavar="N", help="tokens per example (%(default)s)")
    parser.add_argument(
        "--max-predictions-per-seq",
        type=int,
        default=10,
        metavar="N",
        help="maximum masked tokens per example (%(default)s)",
    )
    parser.add_argument(
        "--masking",
        choices=("char", "wwm", "span"),
        default="char",
        help="mask single tokens, whole words, or runs of up to three tokens (%(default)s)",
    )
    parser.add_argument(
        "--masked-lm-prob", type=float, default=0.15, metavar="SHARE", help="share of tokens to mask (%(default)s)"
    )
    parser.add_argument(
        "--short-seq-prob", type=float, default=0.1, metavar="SHARE", help="share of short examples (%(default)s)"
    )
    parser.add_argument(
        "--dupe-factor",
        type=int,
        default=1,
        metavar="N",
        help="passes over the corpus, each with new masks (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of every random choice (%(default)s)")
    parser.add_argument(
        "--lines-per-shard", type=int, default=100_000, metavar="N", help="danmaku per file (%(default)s)"
    )


def run(*, corpus: Path, output: Path, seed: int, lines_per_shard: int, **settings: Any) -> None:
    from training.examples.records import write_examples
    from training.examples.settings import ExampleSettings

    print_report(
        write_examples(corpus, output, ExampleSettings(**settings), seed=seed, lines_per_shard=lines_per_shard)
    )
