"""The `danmaku` command: finds the command in a table, parses its flags and runs it.

A command is a module of `service/commands/` that offers what `Command` lists. It imports what its work needs inside
`run`, so `--help` and `danmaku serve` start quickly.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from pydantic import ValidationError
from pydantic_settings import SettingsError

from service import __version__
from service.commands import check, classify, key, serve, worker
from service.commands.bench import command as bench_command
from service.commands.collections import command as collections_command
from service.commands.embed import command as embed_command
from service.commands.flags import print_faults
from service.commands.highlights import command as highlights_command
from service.commands.merge import command as merge_command
from service.errors import DanmakuError


class Command(Protocol):
    NAME: str
    HELP: str
    DESCRIPTION: str
    EXAMPLE: str

    def add_flags(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, parsed: argparse.Namespace) -> int:
        """Returns the exit status. Errors of `_expected_errors` are printed as one line."""


COMMANDS: tuple[Command, ...] = (
    *(serve, key, worker, check, collections_command),
    *(embed_command, classify, merge_command, highlights_command, bench_command),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="danmaku", description="Turns danmaku into vectors.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    parsers = {}
    for command in COMMANDS:
        parsers[command.NAME] = subparsers.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.DESCRIPTION,
            epilog=command.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_flags(parsers[command.NAME])
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments[:2]) == ["worker", worker.CLASSIC]:  # bert-serving-start parses the flags that follow
        return worker.run_classic(arguments[2:])
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        parsers[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return _run(next(command for command in COMMANDS if parsed.command == command.NAME), parsed)


def _run(command: Command, parsed: argparse.Namespace) -> int:
    try:
        status = command.run(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValidationError as error:
        print_faults(f"danmaku {command.NAME}", error)
        return 2
    except _expected_errors() as error:
        print(f"danmaku {command.NAME}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _expected_errors() -> tuple[type[Exception], ...]:
    """Returns the errors to print as one line. Called only when something is raised: the client imports slowly."""
    from danmaku_client import GatewayError

    return DanmakuError, GatewayError, SettingsError, OSError
