"""`danmaku collections`: asks a running gateway, which holds the store, so the work is done there.

What `load` and `export` do stands in `transfer.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import ConfigurationError

if TYPE_CHECKING:
    from danmaku_client import Client

EXAMPLE = """example:
  danmaku collections list
  danmaku collections search default 草
  danmaku collections load room danmaku.txt recordings/
  danmaku collections export room --output room.ndjson
  danmaku collections rebuild default --url http://127.0.0.1:8000
"""
TIMEOUT_S = 10.0
LONG_TIMEOUT_S = 300.0  # for a step of what takes long, which waits for the encoder as everybody does


def add_flags(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    for action, help in (
        ("list", "what collections there are"),
        ("create", "make an empty one"),
        ("load", "add the danmaku of files; make the collection if it is not there"),
        ("export", "write all danmaku, without vectors, into a file that load takes"),
        ("search", "print the danmaku most like a text: score, text"),
        ("rebuild", "embed all texts anew after a change of model"),
        ("drop", "remove one with all its danmaku"),
    ):
        command = actions.add_parser(action, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=EXAMPLE)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        if action != "list":
            command.add_argument("name")
        if action == "search":
            command.add_argument("text")
            command.add_argument("--top-k", type=int, default=10, help="at most so many [10]")
        if action == "load":
            command.add_argument(
                "paths",
                type=Path,
                nargs="+",
                metavar="FILE|FOLDER",
                help="a danmaku a line; .ndjson: a text or an object a line; .csv: with a header that names `text`, "
                "whose other columns become metadata, or recorded danmaku (text,seconds,posted at)",
            )
            command.add_argument("--skip", type=int, default=0, metavar="ROWS", help="that are loaded already [0]")
        if action == "export":
            command.add_argument("--output", type=Path, required=True, metavar="FILE", help="NDJSON, an object a line")
        command.add_argument(
            "--url",
            default="http://127.0.0.1:8000",
            help="the gateway; if it wants a key, put it into the variable DANMAKU_API_KEY [http://127.0.0.1:8000]",
        )


def run(parsed: argparse.Namespace) -> int:
    from danmaku_client import Client, GatewayError

    key = os.environ.get("DANMAKU_API_KEY")  # a flag would show in the list of processes
    timeout_s = LONG_TIMEOUT_S if parsed.action in ("load", "rebuild") else TIMEOUT_S
    try:
        with Client(parsed.url, key, timeout_s=timeout_s) as client:
            ACTIONS[parsed.action](client, parsed)
        return 0
    except (GatewayError, ConfigurationError, OSError) as error:
        print(f"danmaku collections: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _list(client: Client, parsed: argparse.Namespace) -> None:
    for each in client.collections():
        print(f"{each.name}\t{each.count} danmaku\t{each.bytes} bytes\t{each.fingerprint}")


def _create(client: Client, parsed: argparse.Namespace) -> None:
    client.create(parsed.name)


def _load(client: Client, parsed: argparse.Namespace) -> None:
    from service.commands.collections.transfer import Loaded, load

    done = Loaded(rows=parsed.skip)
    try:
        load(client, parsed.name, parsed.paths, done, quiet=not sys.stderr.isatty())
    except BaseException:
        if done.rows > parsed.skip:
            print(
                f"danmaku collections: {done.rows} rows are loaded; --skip {done.rows} goes on behind them",
                file=sys.stderr,
            )
        raise
    for reason in done.reasons:
        print(f"danmaku collections: refused: {reason}", file=sys.stderr)
    print(f"{parsed.name}: {done.rows:,} rows; {done.added:,} added, {done.replaced:,} there already, ", end="")
    print(f"{done.refused:,} refused")


def _export(client: Client, parsed: argparse.Namespace) -> None:
    from service.commands.collections.transfer import export

    count = export(client, parsed.name, parsed.output, quiet=not sys.stderr.isatty())
    print(f"{parsed.output}: {count:,} danmaku")


def _search(client: Client, parsed: argparse.Namespace) -> None:
    for match in client.search(parsed.name, parsed.text, top_k=parsed.top_k).matches[0]:
        print(f"{match.score:.3f}\t{match.text}")


def _rebuild(client: Client, parsed: argparse.Namespace) -> None:
    from danmaku_client import GatewayError

    step = None
    for step in client.rebuild(parsed.name):
        if sys.stderr.isatty():
            print(f"\r{step.done} of {step.total}", end="", file=sys.stderr, flush=True)
    if step is None or not step.is_finished:
        raise GatewayError("the answer broke off; the same command goes on with what is done", "bad_answer")
    print(f"{parsed.name}: {step.done} danmaku, {step.lost} of which this model cannot embed")


def _drop(client: Client, parsed: argparse.Namespace) -> None:
    client.drop(parsed.name)


ACTIONS = {
    "list": _list,
    "create": _create,
    "load": _load,
    "export": _export,
    "search": _search,
    "rebuild": _rebuild,
    "drop": _drop,
}
