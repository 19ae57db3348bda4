"""The command `danmaku-train`: parses the arguments, runs one command, and reports errors.

The commands are in training/commands/. TensorFlow takes seconds to import and `--help` does not need it, so each
command imports what it runs. An error that the user can fix is one line on standard error and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from service import __version__
from training.commands import (
    align,
    classify,
    clean,
    evaluate,
    examples,
    export,
    sameness,
    tpu_check,
    train,
    update,
    visualise,
)

COMMANDS = (clean, examples, train, align, update, evaluate, export, classify, sameness, visualise, tpu_check)
INSTALL = "make install-dev, or pip install --editable '.[training]'"
# Errors that the user can fix; any other error is a bug and keeps its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. Exits with status 2, as argparse does, for invalid arguments."""
    flags = vars(make_parser().parse_args(argv))
    command = {command.NAME: command for command in COMMANDS}[flags.pop("command")]
    try:
        if _needs_tensorflow(command, flags):
            _import_tensorflow()
        return command.run(**flags) or 0
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("training", "service"):
            raise
        return _fail(f"{error.name} is not installed: {INSTALL}")
    except USER_ERRORS as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130  # as a shell reports SIGINT


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands; the chosen one is `command` in its result."""
    parser = argparse.ArgumentParser(
        prog="danmaku-train",
        description="Trains a BERT on danmaku. The commands, in the order of use, are listed below.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.NAME,
            help=command.HELP,
            description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
            epilog=f"example:\n  danmaku-train {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the example on one line, to be copied
        )
        command.add_flags(subparser)
    return parser


def _needs_tensorflow(command: Any, flags: Mapping[str, Any]) -> bool:
    """Returns whether the command needs TensorFlow: `export` for one format, `classify` only to fine-tune."""
    if command is export:
        return bool(flags["layout"] == "tensorflow")
    if command is classify:
        return flags["workdir"] is not None
    return bool(command.NEEDS_TENSORFLOW)


def _import_tensorflow() -> None:
    """Imports TensorFlow without the lines that it logs, unless the user has set TF_CPP_MIN_LOG_LEVEL."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # Keras is not used, and takes two fifths of the time to start
    is_quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if is_quiet and "tensorflow" not in sys.modules:
        with _discarded_stderr():  # TensorFlow logs while it loads, whatever the level is
            import_module("tensorflow")


@contextmanager
def _discarded_stderr() -> Iterator[None]:
    """Sends the process's standard error, including that of C++ code, to /dev/null."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _fail(message: str) -> int:
    print(f"danmaku-train: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
