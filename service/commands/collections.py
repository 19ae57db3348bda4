"""`danmaku collections`: asks a running gateway, which holds the store, so the work is done there."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

EXAMPLE = """example:
  danmaku collections list
  danmaku collections search default 草
  danmaku collections rebuild default --url http://127.0.0.1:8000
"""


class Refused(Exception):
    """What the gateway says against it."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    for action, help in (
        ("list", "what collections there are"),
        ("create", "make an empty one"),
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
        command.add_argument(
            "--url",
            default="http://127.0.0.1:8000",
            help="the gateway; if it wants a key, put it into the variable DANMAKU_API_KEY [http://127.0.0.1:8000]",
        )


def run(parsed: argparse.Namespace) -> int:
    try:
        return _run(parsed)
    except Refused as refusal:
        reason = str(refusal)
    except urllib.error.HTTPError as error:
        reason = _reason(error)
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        reason = f"{parsed.url} does not answer as a gateway does: {error}"
    print(f"danmaku collections: {reason}", file=sys.stderr)
    return 1


def _run(parsed: argparse.Namespace) -> int:
    if parsed.action == "list":
        for info in next(_ask(parsed, "GET", "/collections"))["collections"]:
            print(f"{info['name']}\t{info['count']} danmaku\t{info['bytes']} bytes\t{info['fingerprint']}")
        return 0
    if parsed.action == "search":
        body = {"query": parsed.text, "collection": parsed.name, "top_k": parsed.top_k}
        for match in next(_ask(parsed, "POST", "/similar", body))["results"][0]["matches"]:
            print(f"{match['score']:.3f}\t{match['text']}")
        return 0
    path = f"/collections/{urllib.parse.quote(parsed.name, safe='')}"
    if parsed.action == "rebuild":
        return _rebuild(parsed, path)
    next(_ask(parsed, "PUT" if parsed.action == "create" else "DELETE", path))
    return 0


def _rebuild(parsed: argparse.Namespace, path: str) -> int:
    told: dict[str, Any] = {}
    for told in _ask(parsed, "POST", f"{path}/rebuild"):
        if "error" in told:
            raise Refused(told["error"])
        if sys.stderr.isatty():
            print(f"\r{told['done']} of {told['total']}", end="", file=sys.stderr, flush=True)
    if not told.get("finished"):
        raise Refused("the answer broke off; the same command goes on with what is done")
    print(f"{parsed.name}: {told['done']} danmaku, {told['lost']} of which this model cannot embed")
    return 0


def _ask(parsed: argparse.Namespace, method: str, path: str, body: object = None) -> Iterator[dict[str, Any]]:
    """The lines of the answer."""
    key = os.environ.get("DANMAKU_API_KEY")  # a flag would show in the list of processes
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{parsed.url.rstrip('/')}{path}", content, headers, method=method)
    with urllib.request.urlopen(request, timeout=300) as answer:
        for line in answer:
            yield json.loads(line)


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {error.code}"
