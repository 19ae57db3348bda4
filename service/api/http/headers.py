"""Reads a request's headers straight from ASGI: starlette's `Headers` takes several times as long."""

from __future__ import annotations

from starlette.types import Scope

NDJSON = "application/x-ndjson"
NDJSON_NAMES = (NDJSON.encode(), b"application/jsonl")


def find_header(scope: Scope, name: bytes) -> bytes | None:
    """Returns the first header called `name`, which is in lower case, or None."""
    for given, value in scope["headers"]:
        if given == name:
            return bytes(value)
    return None


def is_ndjson(scope: Scope) -> bool:
    kind = find_header(scope, b"content-type") or b""
    return kind.partition(b";")[0].strip().lower() in NDJSON_NAMES
