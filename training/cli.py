"""The command `danmaku-train`: reads arguments, calls one function, prints what came of it.

TensorFlow takes seconds to import and is not needed to be asked for help, so each command imports what it
runs. Whatever a user can put right ends in one line on standard error and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.files import location
from training.readers import FORMATS

INSTALL = "make install-dev, or pip install --editable '.[training]'"
DOES_NOT_FIT = 1
STOPPED = 3  # a run that has not come to its end: what should follow it must not
# What a person is to put right, as the code raises it; anything else is a bug, whose traceback is wanted.
USERS_ERRORS = (ValueError, OSError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. argparse itself exits with 2 for unreadable arguments."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # users read our lines, not TensorFlow's
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # Keras is not used, and takes two fifths of the time to start
    try:
        return arguments.run(arguments) or 0
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("training", "service"):
            raise
        return _fail(f"{error.name} is not installed: {INSTALL}")
    except USERS_ERRORS as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130  # as a shell reports SIGINT


def _fail(message: str) -> int:
    print(f"danmaku-train: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="danmaku-train",
        description="Trains a BERT on danmaku: clean, examples, train, align, evaluate, export, visualise; tpu-check.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(
        commands,
        _clean,
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
        _examples,
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
        _train,
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
        _align,
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
        _tpu_check,
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
        _evaluate,
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
    command.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")

    command = _command(
        commands,
        _export,
        "a run's model to a model directory",
        "export --workdir runs/mini --output models/mini",
    )
    command.add_argument("--workdir", type=location, required=True, metavar="DIR", help="of a run")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="the model directory to make")
    command.add_argument("--step", type=int, metavar="N", help="(default: the newest; 0: the untrained model)")

    command = _command(
        commands,
        _visualise,
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
    command.add_argument("--words", type=Path, metavar="FILE", help="one a line (default: training/words.txt)")
    return parser


def _command(
    commands: Any, run: Callable[[argparse.Namespace], int | None], what: str, example: str
) -> argparse.ArgumentParser:
    name = run.__name__.removeprefix("_").replace("_", "-")
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  danmaku-train {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # an example is copied: keep it on its line
    )
    command.set_defaults(run=run)
    return command


def _cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _heldout(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--heldout", type=float, default=0.05, metavar="SHARE", help=what)


def _paths(command: argparse.ArgumentParser, flag: str, what: str, *, metavar: str = "PATH") -> None:
    """A flag that takes one or more paths, and may be given more than once."""
    command.add_argument(flag, type=Path, nargs="+", action="extend", required=True, metavar=metavar, help=what)


def _clean(arguments: argparse.Namespace) -> None:
    from training.clean import clean
    from training.corpus import Shard
    from training.readers.base import ReaderSettings

    settings = ReaderSettings(
        text_field=arguments.text_field,
        time_field=arguments.time_field,
        document_field=arguments.document_field,
        session_gap_s=arguments.session_gap_s,
    )
    _print_report(
        clean(
            arguments.input,
            arguments.output,
            vocab=arguments.vocab,
            vocab_size=arguments.vocab_size,
            heldout=arguments.heldout,
            format=arguments.format,
            settings=settings,
            jobs=arguments.jobs,
            shard=Shard.parse(arguments.shard) if arguments.shard else None,
        )
    )


def _examples(arguments: argparse.Namespace) -> None:
    from training.examples import ExampleSettings
    from training.records import write_examples

    settings = ExampleSettings(
        max_seq_length=arguments.max_seq_length,
        max_predictions_per_seq=arguments.max_predictions_per_seq,
        masked_lm_prob=arguments.masked_lm_prob,
        masking=arguments.masking,
        short_seq_prob=arguments.short_seq_prob,
        dupe_factor=arguments.dupe_factor,
    )
    _print_report(
        write_examples(
            arguments.input,
            arguments.output,
            settings,
            seed=arguments.seed,
            lines_per_shard=arguments.lines_per_shard,
        )
    )


def _train(arguments: argparse.Namespace) -> int:
    from training.config import read_config
    from training.devices import open_strategy
    from training.train import train

    config = read_config(arguments.config, arguments.set)
    examples = arguments.examples or arguments.workdir / "examples"
    newest = train(config, arguments.workdir, examples, strategy=open_strategy(arguments.tpu))
    return _ended(newest, config.num_train_steps)


def _align(arguments: argparse.Namespace) -> int:
    from training.align import align
    from training.config import read_align_config

    config = read_align_config(arguments.config, arguments.set)
    newest = align(config, arguments.workdir, arguments.model, arguments.input, heldout=arguments.heldout)
    return _ended(newest, config.num_train_steps)


def _ended(newest: Path, num_train_steps: int) -> int:
    finished = newest.name.endswith(f"-{num_train_steps}")
    print(f"{newest}: {'finished' if finished else 'stopped; the same command goes on from here'}")
    return 0 if finished else STOPPED


def _tpu_check(arguments: argparse.Namespace) -> int:
    from training.config import read_config
    from training.tpu.check import tpu_check

    found = tpu_check(
        read_config(arguments.config, arguments.set),
        topology=arguments.topology,
        vocab_size=arguments.vocab_size,
        max_seq_length=arguments.max_seq_length,
        max_predictions_per_seq=arguments.max_predictions_per_seq,
    )
    print(found)
    return 0 if found.fits else DOES_NOT_FIT


def _evaluate(arguments: argparse.Namespace) -> None:
    from training.report import markdown, retrieval_markdown, write_json, write_markdown

    if arguments.retrieval:
        from training.retrieval import evaluate_retrieval

        answers: Any = evaluate_retrieval(
            arguments.model, arguments.corpus, heldout=arguments.heldout, aligned=arguments.aligned
        )
        table = retrieval_markdown(answers)
    else:
        from training.evaluate import evaluate

        answers = evaluate(
            arguments.model, arguments.corpus, max_examples=arguments.max_examples, unseen=arguments.unseen
        )
        table = markdown(answers)
    print(table, end="")
    if arguments.json:
        write_json(arguments.json, answers)
    if arguments.markdown:
        write_markdown(arguments.markdown, table)


def _export(arguments: argparse.Namespace) -> None:
    from training.export import export

    print(export(arguments.workdir, arguments.output, step=arguments.step))


def _visualise(arguments: argparse.Namespace) -> None:
    from training.visualise import WORDS, visualise

    readings = visualise(
        arguments.model,
        arguments.output,
        words=arguments.words or WORDS,
        ranks=arguments.json,
        neighbours=arguments.neighbours,
    )
    print(f"{arguments.output}\n\n{readings}" if readings else arguments.output, end="" if readings else "\n")


def _print_report(report: Mapping[str, object], prefix: str = "") -> None:
    """A report as readable lines, `kept, train, lines: 1,234`."""
    for key, value in report.items():
        name = prefix + key.replace("_", " ")
        if isinstance(value, Mapping) and key.endswith("characters"):
            print(f"{name}: {', '.join(f'{item} {count:,}' for item, count in value.items()) or 'none'}")
        elif isinstance(value, Mapping):
            _print_report(value, f"{name}, ")
        elif isinstance(value, list):
            print(f"{name}: {len(value):,}")
        else:
            print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
