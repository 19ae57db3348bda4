"""`danmaku`: the commands of the service. Each parses, assembles and calls; decisions are elsewhere."""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service import __version__
from service.errors import ConfigurationError
from service.settings import Settings

SERVE_EXAMPLE = """example:
  danmaku serve --port 8123 --encoder onnx://models/danmaku-bert-mini
  curl -s 127.0.0.1:8123/embed -d '["草", "awsl"]'
"""
CHECK_EXAMPLE = """example:
  danmaku check http://127.0.0.1:8000 && echo ready
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="danmaku", description="Turns danmaku into vectors, over HTTP.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, add in (("serve", _add_serve), ("check", _add_check)):
        add(commands, name)
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
    for field, info in Settings.model_fields.items():
        default = "" if info.default_factory or info.default is None else f" [{_shown(info.default)}]"
        parser.add_argument(
            f"--{field.replace('_', '-')}",
            dest=field,
            default=argparse.SUPPRESS,
            nargs="+" if field == "pooling_layer" else None,
            metavar=field.rsplit("_", 1)[-1].upper(),
            help=f"{info.description}{default}".replace("%", "%%"),
        )
    parser.set_defaults(run=_serve)


def _shown(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _serve(parsed: argparse.Namespace) -> int:
    try:
        settings = Settings(**{key: value for key, value in vars(parsed).items() if key in Settings.model_fields})
        return uvloop.run(_run(settings))
    except ValidationError as error:
        for fault in error.errors():
            field = ".".join(map(str, fault["loc"]))
            print(f"danmaku serve: {field + ': ' if field else ''}{fault['msg']}", file=sys.stderr)
        return 2
    except (ConfigurationError, SettingsError) as error:
        print(f"danmaku serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the model was being opened; later, uvicorn takes the signal
        return 130


async def _run(settings: Settings) -> int:
    import uvicorn

    from service.app import create_app

    app = create_app(settings)
    # Opened here rather than by uvicorn, so that a model that cannot be opened is one line and no traceback.
    async with app.router.lifespan_context(app):
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            lifespan="off",
            access_log=False,  # the metrics count requests; a line for each would cost more than a cached answer
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
        )
        server = uvicorn.Server(config)
        # uvicorn lets requests finish on these signals, and raises them again when it is done: by then we are closing.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        await server.serve()
    return 0


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    parser = commands.add_parser(
        name,
        help="ask whether a gateway is ready",
        description="Exits with 0 if the gateway is ready to embed, else with 1 and the reason.",
        epilog=CHECK_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="[http://127.0.0.1:8000]")
    parser.add_argument("--timeout-s", type=float, default=2.0, help="how long to wait for the answer [2]")
    parser.set_defaults(run=_check)


def _check(parsed: argparse.Namespace) -> int:
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
