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

from training.arguments import parser_of_all

INSTALL = "make install-dev, or pip install --editable '.[training]'"
DOES_NOT_FIT = 1
STOPPED = 3  # a run that has not come to its end: what should follow it must not
# What a person is to put right, as the code raises it; anything else is a bug, whose traceback is wanted.
USERS_ERRORS = (ValueError, OSError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. argparse itself exits with 2 for unreadable arguments."""
    arguments = parser_of_all().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # users read our lines, not TensorFlow's
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # Keras is not used, and takes two fifths of the time to start
    try:
        return RUN[arguments.command](arguments) or 0
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


def _clean(arguments: argparse.Namespace) -> None:
    from training.corpus.clean import clean
    from training.corpus.files import Shard
    from training.corpus.readers.base import ReaderSettings

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
    from training.examples.records import write_examples
    from training.examples.settings import ExampleSettings

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
    from training.bert.devices import open_strategy
    from training.bert.train import train
    from training.config import read_config

    config = read_config(arguments.config, arguments.set)
    examples = arguments.examples or arguments.workdir / "examples"
    newest = train(config, arguments.workdir, examples, strategy=open_strategy(arguments.tpu))
    return _ended(newest, config.num_train_steps)


def _align(arguments: argparse.Namespace) -> int:
    from training.alignment.align import align
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
    from training.evaluation.report import markdown, retrieval_markdown, write_json, write_markdown

    if arguments.retrieval:
        from training.evaluation.retrieval import evaluate_retrieval

        answers: Any = evaluate_retrieval(
            arguments.model,
            arguments.corpus,
            heldout=arguments.heldout,
            aligned=arguments.aligned,
            dims=arguments.dims,
        )
        table = retrieval_markdown(answers)
    else:
        from training.evaluation.evaluate import evaluate

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
    from training.bert.export import export

    print(export(arguments.workdir, arguments.output, step=arguments.step))


def _visualise(arguments: argparse.Namespace) -> None:
    from training.pictures.visualise import WORDS, visualise

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


RUN: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "clean": _clean,
    "examples": _examples,
    "train": _train,
    "align": _align,
    "tpu-check": _tpu_check,
    "evaluate": _evaluate,
    "export": _export,
    "visualise": _visualise,
}


if __name__ == "__main__":
    sys.exit(main())
