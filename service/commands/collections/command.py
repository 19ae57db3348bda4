"""`danmaku collections`: manages the collections of a running gateway, which does the work.

`transfer.py` implements `load` and `export`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.recording_flags import add_recording_flags, recording_options
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from danmaku_client import Client

NAME = "collections"
HELP = "manage the collections of a running gateway"
DESCRIPTION = "Lists, creates, fills, exports, searches, rebuilds and drops collections of a running gateway."
EXAMPLE = """example:
  danmaku collections list
  danmaku collections search default 草
  danmaku collections load room danmaku.txt recordings/
  danmaku collections export room --output room.ndjson
  danmaku collections rebuild default --url http://127.0.0.1:8000
"""
TIMEOUT_S = 10.0
LONG_TIMEOUT_S = 300.0  # for a step of a load or a rebuild, which waits for the encoder like any other request


def add_flags(parser: argparse.ArgumentParser) -> None:
    _add_url(parser, default="http://127.0.0.1:8000")
    actions = parser.add_subparsers(dest="action", required=True)
    for action, summary in (
        ("list", "list all collections"),
        ("create", "create an empty collection"),
        ("load", "add danmaku from files; creates the collection if it does not exist"),
        ("export", "write all danmaku, without vectors, to a file that `load` accepts"),
        ("search", "print the danmaku most similar to a text, with scores"),
        ("rebuild", "re-embed all texts after a change of model"),
        ("drop", "delete a collection and all its danmaku"),
    ):
        command = actions.add_parser(
            action,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if action != "list":
            command.add_argument("name")
        if action == "search":
            command.add_argument("text")
            command.add_argument("--top-k", type=int, default=10, help="maximum number of matches [10]")
        if action == "load":
            command.add_argument(
                "paths",
                type=Path,
                nargs="+",
                metavar="FILE|FOLDER",
                help="recordings (docs/recordings.md); JSON lines with the fields of the route; or tables with a "
                "column `text`, whose other columns become metadata",
            )
            add_recording_flags(command)
            command.add_argument(
                "--skip",
                type=_count,
                default=0,
                metavar="ROWS",
                help="number of rows to skip, because they are loaded already [0]",
            )
        if action == "export":
            command.add_argument("--output", type=Path, required=True, metavar="FILE", help="output file; NDJSON")
        _add_url(command, default=argparse.SUPPRESS)  # keeps a --url before the action


def _add_url(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--url",
        default=default,
        help="URL of the gateway; DANMAKU_API_KEY holds its API key [http://127.0.0.1:8000]",
    )


def run(parsed: argparse.Namespace) -> int:
    from danmaku_client import Client

    key = os.environ.get("DANMAKU_API_KEY")  # a flag would show in the list of processes
    timeout_s = LONG_TIMEOUT_S if parsed.action in ("load", "rebuild") else TIMEOUT_S
    with Client(parsed.url, key, timeout_s=timeout_s) as client:
        return ACTIONS[parsed.action](client, parsed) or 0


def _list(client: Client, parsed: argparse.Namespace) -> None:
    for collection in client.collections():
        print(f"{collection.name}\t{collection.count} danmaku\t{collection.bytes} bytes\t{collection.fingerprint}")


def _create(client: Client, parsed: argparse.Namespace) -> None:
    client.create(parsed.name)


def _load(client: Client, parsed: argparse.Namespace) -> int:
    from service.commands.collections.files import look_at
    from service.commands.collections.transfer import Loaded, load
    from service.recordings.recording import READ

    options = recording_options(parsed, keep_items=True)
    files = look_at(parsed.paths, options)
    for reason in files.left_out:
        print(f"danmaku collections: left out: {reason}", file=sys.stderr)
    if files.refused and not parsed.lenient:
        raise ConfigurationError(
            f"{'; '.join(files.refused[:10])}. Nothing was loaded; --lenient loads the files that can be read"
        )
    for reason in files.refused:
        print(f"danmaku collections: refused: {reason}", file=sys.stderr)
    done = Loaded(rows=parsed.skip)
    try:
        load(client, parsed.name, files, options, done, quiet=not sys.stderr.isatty())
    except BaseException:
        if done.rows > parsed.skip:
            print(
                f"danmaku collections: {done.rows} rows are loaded; use --skip {done.rows} to resume after them",
                file=sys.stderr,
            )
        raise
    for reason in done.reasons:
        print(f"danmaku collections: refused: {reason}", file=sys.stderr)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in done.left_out.most_common())
    print(
        f"{parsed.name}: {done.rows - parsed.skip:,} rows; {done.added:,} added, {done.replaced:,} already present, "
        f"{done.repeated:,} repeated, {done.refused:,} refused, {done.left_out.total():,} not danmaku"
        + (f" ({left_out})" if left_out else "")
    )
    if not done.added + done.replaced:
        print(f"danmaku collections: nothing was loaded; {READ}", file=sys.stderr)
        return 1
    return 1 if done.refused and not parsed.lenient else 0


def _export(client: Client, parsed: argparse.Namespace) -> None:
    from service.commands.collections.transfer import export

    count = export(client, parsed.name, parsed.output, quiet=not sys.stderr.isatty())
    print(f"{parsed.output}: {count:,} danmaku")


def _search(client: Client, parsed: argparse.Namespace) -> int:
    found = client.search(parsed.name, parsed.text, top_k=parsed.top_k)
    for error in found.query_errors:
        print(f"danmaku collections: {parsed.text!r} cannot be searched for: {error.error}", file=sys.stderr)
    for match in found.matches[0]:
        print(f"{match.score:.3f}\t{match.text}")
    return 1 if found.query_errors else 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"invalid number: {text!r}; expected 0 or more")
    return int(text)


def _rebuild(client: Client, parsed: argparse.Namespace) -> None:
    from danmaku_client import GatewayError

    step = None
    for step in client.rebuild(parsed.name):
        if sys.stderr.isatty():
            print(f"\r{step.done} of {step.total}", end="", file=sys.stderr, flush=True)
    if step is None or not step.is_finished:
        raise GatewayError("the connection closed early; run the same command to resume", "bad_answer")
    print(f"{parsed.name}: {step.done} danmaku, of which {step.lost} cannot be embedded by this model")


def _drop(client: Client, parsed: argparse.Namespace) -> None:
    client.drop(parsed.name)


ACTIONS: dict[str, Callable[[Client, argparse.Namespace], int | None]] = {
    "list": _list,
    "create": _create,
    "load": _load,
    "export": _export,
    "search": _search,
    "rebuild": _rebuild,
    "drop": _drop,
}
