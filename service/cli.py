"""`danmaku`: the commands of the service. Each parses, assembles and calls; decisions are elsewhere."""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import SettingsError

from service import __version__
from service.commands.flags import add_settings, given_settings, print_faults
from service.errors import ConfigurationError, DanmakuError
from service.event_loop import run_until_complete
from service.settings import Settings

SERVE_EXAMPLE = """example:
  danmaku serve --port 8123 --encoder onnx://models/danmaku-bert-mini
  curl -s 127.0.0.1:8123/embed -d '["草", "awsl"]'
"""
CHECK_EXAMPLE = """example:
  danmaku check http://127.0.0.1:8000 && echo ready
  danmaku check bert://127.0.0.1:5555:5556
"""
KEY_EXAMPLE = """example:
  danmaku key
  danmaku serve --host 0.0.0.0 --api-key-hashes HASH
  curl -s 127.0.0.1:8000/embed -H 'Authorization: Bearer KEY' -d '["草"]'
"""
CLASSIC = "--classic"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="danmaku", description="Turns danmaku into vectors.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, add in {
        "serve": _add_serve,
        "key": _add_key,
        "worker": _add_worker,
        "embed": _add_embed,
        "bench": _add_bench,
        "check": _add_check,
        "collections": _add_collections,
    }.items():
        add(commands, name)
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments[:2]) == ["worker", CLASSIC]:  # the flags that follow are the genuine server's to read
        return _classic(arguments[2:])
    parsed = parser.parse_args(arguments)
    return int(parsed.run(parsed))


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    parser = commands.add_parser(
        name,
        help="run the gateway",
        description="Runs the gateway until SIGTERM or Ctrl-C. Every flag is also a variable, DANMAKU_<FLAG>.",
        epilog=SERVE_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser, Settings.model_fields)
    parser.set_defaults(run=_serve)


def _serve(parsed: argparse.Namespace) -> int:
    try:
        return run_until_complete(_run(Settings(**given_settings(parsed))))
    except ValidationError as error:
        print_faults("danmaku serve", error)
        return 2
    except (ConfigurationError, SettingsError) as error:
        print(f"danmaku serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the model was being opened; later, uvicorn takes the signal
        return 130


async def _run(settings: Settings) -> int:
    from service.api.keys import check_host
    from service.app import create_app
    from service.log import configure
    from service.server import create_server

    check_host(settings.host, has_keys=bool(settings.api_key_hashes), allow_anonymous=settings.allow_anonymous)
    configure(settings.log_format)
    app = create_app(settings)
    # Opened here rather than by uvicorn, so that a model that cannot be opened is one line and no traceback.
    async with app.router.lifespan_context(app):
        server = create_server(app, settings)
        # uvicorn lets requests finish on these signals, and raises them again when it is done: by then we are closing.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        await server.serve()
    return 0


def _add_key(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    parser = commands.add_parser(
        name,
        help="make an API key",
        description="Prints a new API key, for a client, and its hash, for --api-key-hashes. Neither is kept.",
        epilog=KEY_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_key)


def _key(_: argparse.Namespace) -> int:
    from service.api.keys import hash_key, make_key

    key = make_key()
    print(f"key  {key}\nhash {hash_key(key)}")
    return 0


def _add_worker(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    from service.worker.flags import EXAMPLE, add_flags

    parser = commands.add_parser(
        name,
        help="run a worker in the place of bert-serving-start",
        description="Encodes texts for bert-serving-client and for gateways, until SIGTERM or Ctrl-C.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    parser.set_defaults(run=_worker)


def _worker(parsed: argparse.Namespace) -> int:
    from service.worker.run import run

    logging.basicConfig(level=logging.DEBUG if parsed.verbose else logging.INFO, format="%(asctime)s %(message)s")
    try:
        return run_until_complete(run(parsed))
    except ConfigurationError as error:
        print(f"danmaku worker: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the model was being opened
        return 130


def _classic(flags: Sequence[str]) -> int:
    from service.classic import main as bert_serving_start

    try:
        return bert_serving_start(flags)
    except ModuleNotFoundError as error:
        print(
            f"danmaku worker {CLASSIC}: {error.name} is not installed here; `make classic` makes an environment that "
            "has it: .venv-classic/bin/danmaku",
            file=sys.stderr,
        )
        return 1


def _add_embed(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    from service.commands.embed.command import EXAMPLE, add_flags, run

    parser = commands.add_parser(
        name,
        help="turn a file of danmaku into a file of vectors",
        description="Embeds a danmaku a line. Killed at any moment, the same command goes on where it stopped.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    from service.commands.bench.command import EXAMPLE, add_flags, run

    parser = commands.add_parser(
        name,
        help="measure a gateway with a file of danmaku",
        description="Replays a file of danmaku in its own order, at a rate or with so many callers at a time.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def _add_collections(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    from service.commands.collections.command import EXAMPLE, add_flags, run

    parser = commands.add_parser(
        name,
        help="look after the collections of a running gateway",
        description="Lists, makes, fills, exports, searches, rebuilds and drops collections of a running gateway.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    parser = commands.add_parser(
        name,
        help="ask whether a gateway or a worker is ready",
        description="Exits with 0 if the gateway or the worker is ready, else with 1 and the reason.",
        epilog=CHECK_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="[http://127.0.0.1:8000]")
    parser.add_argument("--timeout-s", type=float, default=2.0, help="how long to wait for the answer [2]")
    parser.set_defaults(run=_check)


def _check(parsed: argparse.Namespace) -> int:
    if parsed.url.startswith("bert://"):
        return _check_worker(parsed.url, parsed.timeout_s)
    try:
        with urllib.request.urlopen(f"{parsed.url.rstrip('/')}/readyz", timeout=parsed.timeout_s) as answer:
            print(json.load(answer)["status"])
            return 0
    except urllib.error.HTTPError as error:
        reason = f"it answered {error.code} {error.read(200).decode(errors='replace')}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(error)
    except (KeyError, TypeError):
        reason = "it answers, but not as a gateway does"
    print(f"danmaku check: {parsed.url} is not ready: {reason}", file=sys.stderr)
    return 1


def _check_worker(url: str, timeout_s: float) -> int:
    from service.worker.probe import probe

    try:
        print(probe(url, timeout_s))
        return 0
    except (DanmakuError, ValueError) as error:
        print(f"danmaku check: {url} is not ready: {error}", file=sys.stderr)
        return 1
