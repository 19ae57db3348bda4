"""`danmaku worker`: runs a worker, or the genuine bert-serving-server with `--classic`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from service.worker.flags import EXAMPLE, add_flags

__all__ = ["CLASSIC", "DESCRIPTION", "EXAMPLE", "HELP", "NAME", "add_flags", "run", "run_classic"]

NAME = "worker"
HELP = "run a worker that replaces bert-serving-start"
DESCRIPTION = "Encodes texts for bert-serving-client and gateways until SIGTERM or Ctrl-C."
CLASSIC = "--classic"


def run(parsed: argparse.Namespace) -> int:
    from service.event_loop import run_until_complete
    from service.worker.run import serve

    logging.basicConfig(level=logging.DEBUG if parsed.verbose else logging.INFO, format="%(asctime)s %(message)s")
    return run_until_complete(serve(parsed))


def run_classic(flags: Sequence[str]) -> int:
    from service.classic import main as bert_serving_start

    try:
        return bert_serving_start(flags)
    except ModuleNotFoundError as error:
        print(
            f"danmaku worker {CLASSIC}: {error.name} is not installed; run `make classic` and use "
            ".venv-classic/bin/danmaku",
            file=sys.stderr,
        )
        return 1
