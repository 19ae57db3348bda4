"""`danmaku check`: checks the health of a gateway or a worker."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

from service.errors import ConfigurationError, DanmakuError

NAME = "check"
HELP = "check whether a gateway or a worker is ready"
DESCRIPTION = (
    "Exits with status 0 if the gateway or worker is ready. Otherwise prints the reason and exits with status 1."
)
EXAMPLE = """example:
  danmaku check http://127.0.0.1:8000 && echo ready
  danmaku check bert://127.0.0.1:5555:5556
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", nargs="?", default="http://127.0.0.1:8000", help="URL of the gateway or worker [http://127.0.0.1:8000]"
    )
    parser.add_argument("--key-file", type=Path, help="path of worker.key, for a worker that requires it")
    parser.add_argument("--timeout-s", type=float, default=2.0, help="seconds to wait for the response [2]")


def run(parsed: argparse.Namespace) -> int:
    try:
        if parsed.url.startswith("bert://"):
            from service.worker.probe import probe

            print(probe(parsed.url, parsed.timeout_s, parsed.key_file))
        elif parsed.key_file:
            raise ConfigurationError(f"invalid --key-file for {parsed.url}; expected bert://HOST, a worker")
        else:
            with urllib.request.urlopen(f"{parsed.url.rstrip('/')}/readyz", timeout=parsed.timeout_s) as response:
                print(json.load(response)["status"])
        return 0
    except urllib.error.HTTPError as error:
        reason = f"it returned {error.code} {error.read(200).decode(errors='replace')}"
    except (KeyError, TypeError):
        reason = "the server answers, but it is not a danmaku gateway"
    except (DanmakuError, OSError, ValueError, http.client.HTTPException) as error:
        reason = str(error)
    print(f"danmaku check: {parsed.url} is not ready: {reason}", file=sys.stderr)
    return 1
