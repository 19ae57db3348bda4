"""Converts between bodies and values of bert-serving-server's HTTP, for workers and gateways, without sockets.

    POST /encode          {"id": 123, "texts": ["草", "awsl"], "is_tokenized": false} → {"id", "result", "status": 200}
    GET  /status/server   the fields of SHOW_STATUS, and `status`
    GET  /status/client   the status of a connection of the genuine server's HTTP proxy

The bodies follow the genuine server's code (its README says `results` instead of `result`). A failure has
`description`, `type` and `status`; the genuine server's are all 400.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson

from service import wire

CLIENT = b"http"
CLIENT_STATUS = {"client_version": wire.SERVER_VERSION, "identity": CLIENT.decode(), "output_fmt": "list"}


def read_request(body: bytes) -> tuple[bytes, wire.Texts]:
    """Returns the request's id, as JSON, and its texts. Raises ValueError, or RecursionError for deep nesting."""
    values = json.loads(body)
    if not isinstance(values, dict) or "id" not in values or not isinstance(values.get("texts"), list):
        raise ValueError('invalid body; expected {"id": …, "texts": ["…", …]}')
    texts = values["texts"]
    if not texts:
        raise ValueError("invalid texts: an empty list; expected at least one text")
    # Checked as over ZMQ, so both accept the same texts.
    checked = wire.EncodeRequest(CLIENT, b"0", json.dumps(texts).encode(), len(texts)).parse_texts()
    if bool(values.get("is_tokenized")) != isinstance(checked[0], list):
        raise ValueError("invalid texts; expected strings, or lists of strings if is_tokenized is true")
    return json.dumps(values["id"], allow_nan=False).encode(), checked


def write_vectors(request_id: bytes, vectors: np.ndarray) -> bytes:
    return _json({"id": orjson.Fragment(request_id), "result": vectors, "status": 200})


def write_status(status: dict[str, Any]) -> bytes:
    return _json({**status, "status": 200})


def write_failure(error: Exception, status: int) -> bytes:
    return _json({"description": str(error), "type": type(error).__name__, "status": status})


def _json(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
