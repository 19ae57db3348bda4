"""What may be said to `danmaku-train`: every command, its flags, and an example. What is then done: training/cli.py."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from training.corpus.readers import FORMATS
from training.files import location


def parser_of_all() -> argparse.ArgumentParser:
    """Of every command; `command` is the one that was chosen."""
    parser = argparse.ArgumentParser(
        prog="danmaku-train",
        description="Trains a BERT on danmaku: clean, examples, train, align, evaluate, export, visualise; tpu-check.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = _command(
        commands,
        "clean",
        "recorded danmaku to plain text and a vocabulary",
        "clean --input danmaku_dataset recordings --vocab chinese_L-12_H-768_A-12/vocab.txt --output corpus",
    )
    _paths(command, "--input", "files of danmaku, or folders of them, formats mixed: training/README.md lists them")
    command.add_argument("--vocab", type=Path, metavar="FILE", help="a BERT vocab.txt (default: learn one)")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="gets train.txt, heldout.txt …")
    command.add_argument("--vocab-size", type=int, default=8000, metavar="N", help="tokens to learn (%(default)s)")
    _heldout(command, "documents kept for judging (%(default)s)")
    command.add_argument(
        "--format", choices=[*FORMATS], help="of all files (default: each is recognised; see training/README.md)"
    )
    command.add_argument("--text-field", default="text", metavar="NAME", help="JSON lines: danmaku (%(default)s)")
    command.add_argument("--time-field", metavar="NAME", help="JSON lines: time (default: order of the file)")
    command.add_argument("--document-field", metavar="NAME", help="JSON lines: video or stream (default: the file)")
    command.add_argument(
        "--session-gap-s",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="live: a longer silence ends a document (%(default)s)",
    )
    command.add_argument(
        "--jobs", type=int, default=_cores(), metavar="N", help="processes (one per core: %(default)s)"
    )
    command.add_argument("--shard", metavar="I/N", help="only part I of N, from 0: the others elsewhere; needs --vocab")

    command = _command(
        commands,
        "examples",
        "a cleaned corpus to TFRecord shards",
        "examples --input corpus --output runs/mini/examples",
    )
    command.add_argument("--input", type=Path, required=True, metavar="DIR", help="what `clean` wrote")
    command.add_argument("--output", type=location, required=True, metavar="DIR", help="gets train-*.tfrecord …")
    command.add_argument("--max-seq-length", type=int, default=64, metavar="N", help="tokens (%(default)s)")
    command.add_argument(
        "--max-predictions-per-seq",
        type=int,
        default=10,
        metavar="N",
        help="most masked tokens (%(default)s)",
    )
    command.add_argument(
        "--masking",
        choices=("char", "wwm", "span"),
        default="char",
        help="mask single tokens, whole words, or up to three tokens (%(default)s)",
    )
    command.add_argument(
        "--masked-lm-prob", type=float, default=0.15, metavar="SHARE", help="of tokens, masked (%(default)s)"
    )
    command.add_argument(
        "--short-seq-prob", type=float, default=0.1, metavar="SHARE", help="of examples, short (%(default)s)"
    )
    command.add_argument(
        "--dupe-factor", type=int, default=1, metavar="N", help="passes, each masked anew (%(default)s)"
    )
    command.add_argument("--seed", type=int, default=1, metavar="N", help="of every random choice (%(default)s)")
    command.add_argument("--lines-per-shard", type=int, default=100_000, metavar="N", help="(%(default)s)")

    command = _command(
        commands,
        "train",
        "trains, or goes on where a run was stopped",
        "train training/configs/danmaku-bert-mini.toml --workdir runs/mini",
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as in training/configs/")
    command.add_argument("--workdir", type=location, required=True, metavar="DIR", help="of this run, and of no other")
    command.add_argument("--examples", type=location, metavar="DIR", help="what `examples` wrote (WORKDIR/examples)")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="instead of the config's, as model.hidden_size=64",
    )
    command.add_argument("--tpu", nargs="?", const="local", metavar="NAME", help="train on a TPU (this machine's)")

    command = _command(
        commands,
        "align",
        "trains a model on what is said at the same moments, so that near vectors mean alike",
        "align training/configs/danmaku-bert-mini-align.toml --model models/danmaku-bert-mini --input danmaku_dataset "
        "--workdir runs/aligned",
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as in training/configs/")
    command.add_argument("--model", type=Path, required=True, metavar="DIR", help="a pre-trained model, or a workdir")
    _paths(command, "--input", "recordings, as for `clean`, with the seconds of their danmaku")
    _heldout(command, "documents left out, as by `clean` (%(default)s)")
    command.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="of this run, and of no other")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="instead of the config's, as temperature=0.1"
    )

    command = _command(
        commands,
        "tpu-check",
        "whether a config's step compiles for a TPU and fits its memory, without a TPU",
        "tpu-check training/configs/tiny.toml --max-seq-length 32 --vocab-size 300",
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as in training/configs/")
    command.add_argument("--topology", default="v3:2x2", help="of chips; two cores each up to v3 (%(default)s)")
    command.add_argument("--vocab-size", type=int, default=21128, metavar="N", help="tokens (%(default)s: Google's)")
    command.add_argument("--max-seq-length", type=int, default=64, metavar="N", help="tokens (%(default)s)")
    command.add_argument(
        "--max-predictions-per-seq", type=int, default=10, metavar="N", help="most masked tokens (%(default)s)"
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="instead of the config's, as batch_size=8192"
    )

    command = _command(
        commands,
        "evaluate",
        "the four pre-training numbers of models on corpora",
        "evaluate --model models/before models/after --corpus corpus --markdown numbers.md",
    )
    _paths(command, "--model", "model directories or workdirs", metavar="DIR")
    _paths(command, "--corpus", "what `clean` wrote: training set and held-out set; or other folders, or .txt files")
    command.add_argument("--max-examples", type=int, metavar="N", help="only the first N (default: all)")
    command.add_argument(
        "--unseen", action="store_true", help="also judge without the danmaku that stand in the first corpus"
    )
    command.add_argument(
        "--retrieval",
        action="store_true",
        help="do vectors find what belongs together? --corpus takes recordings, split as by `clean`",
    )
    _heldout(command, "with --retrieval: documents that are asked about, as `clean` holds them out (%(default)s)")
    command.add_argument(
        "--aligned", type=Path, metavar="DIR", help="with --retrieval: the workdir of `align`, to save minutes"
    )
    command.add_argument(
        "--dims", type=int, nargs="+", default=[], metavar="N", help="with --retrieval: judge the first N numbers, too"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")

    command = _command(
        commands,
        "export",
        "a run's model to a model directory",
        "export --workdir runs/mini --output models/mini",
    )
    command.add_argument("--workdir", type=location, required=True, metavar="DIR", help="of a run")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="the model directory to make")
    command.add_argument("--step", type=int, metavar="N", help="(default: the newest; 0: the untrained model)")

    command = _command(
        commands,
        "visualise",
        "a picture of words as models see them",
        "visualise --model models/before models/after --output words.html",
    )
    command.add_argument(
        "--model",
        nargs="+",
        action="extend",
        required=True,
        metavar="SOURCE",
        help="a panel each: a model directory or workdir, a gateway's http://HOST:PORT, or a bert-as-service worker's "
        "bert://HOST:PORT:PORT_OUT",
    )
    command.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .png, .svg or .html")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the ranks of the recipe's pairs there, too")
    command.add_argument(
        "--neighbours", type=int, default=0, metavar="N", help="also print each word's N nearest, by the last model"
    )
    command.add_argument("--words", type=Path, metavar="FILE", help="one a line (default: training/pictures/words.txt)")
    return parser


def _command(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  danmaku-train {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # an example is copied: keep it on its line
    )
    return command


def _cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _heldout(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--heldout", type=float, default=0.05, metavar="SHARE", help=what)


def _paths(command: argparse.ArgumentParser, flag: str, what: str, *, metavar: str = "PATH") -> None:
    """A flag that takes one or more paths, and may be given more than once."""
    command.add_argument(flag, type=Path, nargs="+", action="extend", required=True, metavar=metavar, help=what)
