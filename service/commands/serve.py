"""`danmaku serve`: runs the gateway."""

from __future__ import annotations

import argparse
import gc
import signal

from service.commands.flags import add_settings, given_settings
from service.settings import Settings

NAME = "serve"
HELP = "run the gateway"
DESCRIPTION = "Runs the gateway until SIGTERM or Ctrl-C. Every flag is also an environment variable, DANMAKU_<FLAG>."
EXAMPLE = """example:
  danmaku serve --port 8123 --encoder onnx://models/danmaku-bert-mini
  curl -s 127.0.0.1:8123/embed -d '["草", "awsl"]'
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, Settings.model_fields)


def run(parsed: argparse.Namespace) -> int:
    from service.event_loop import run_until_complete

    return run_until_complete(_serve(Settings(**given_settings(parsed))))


async def _serve(settings: Settings) -> int:
    from service.api.http.keys import check_host
    from service.app import create_app
    from service.event_loop import handle_signal
    from service.log import configure
    from service.server import create_server, serve_operation

    check_host(settings.host, has_keys=settings.has_keys, allow_anonymous=settings.allow_anonymous)
    configure(settings.log_format)
    app = create_app(settings)
    # Opened here rather than by uvicorn, so a model that cannot be opened causes one line instead of a traceback.
    async with app.router.lifespan_context(app):
        server = create_server(app, settings)
        # uvicorn finishes open requests on these signals and raises them again afterwards, when we are already closing.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        if settings.api_keys_file and hasattr(signal, "SIGHUP"):  # Windows has none
            handle_signal(signal.SIGHUP, app.state.danmaku.accounts.read_again)
        async with serve_operation(app, settings):
            # The objects that exist now last. The collector would scan them again and again while requests wait.
            gc.collect()
            gc.freeze()
            await server.serve()
    return 0
