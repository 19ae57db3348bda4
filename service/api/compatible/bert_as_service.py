"""Implements bert-serving-server's HTTP API; `wire_http` describes its format.

A text without a vector fails its list, because the format cannot report errors per text. Errors are 400, like the
genuine ones, except those that are not the caller's fault: they keep their status, which tells clients when to retry.
"""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from service import wire, wire_http
from service.api.http.body import read_body
from service.api.http.caller import Caller
from service.api.http.responses import ERRORS, PlainRoute
from service.api.http.schemas import EncodeFailure, EncodeRequest, EncodeResponse
from service.api.http.state import State, get_state
from service.api.vectors import vectors_response
from service.errors import ClientGone, DanmakuError, NoVector
from service.shape import LONG_BYTES, check_shape
from service.tasks import run_in_thread_if

router = APIRouter(tags=["bert-serving-server's shape"], route_class=PlainRoute)

FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": EncodeFailure, "description": "Not what this route expects; `description` says why."},
    **{status: {**ERRORS[status], "model": EncodeFailure} for status in (429, 503, 504)},
    **{status: ERRORS[status] for status in (401, 408, 413, 415)},
}


@router.post("/encode", openapi_extra=EncodeRequest.openapi(), responses={**FAILURES, 200: {"model": EncodeResponse}})
async def encode(request: Request) -> Response:
    """Returns the vectors of `POST /embed`."""
    state = get_state(request)
    state.encode_requests += 1
    try:
        body = await read_body(request)
        try:
            return await _encode(request, state, body)
        except ClientGone:
            raise
        except (ValueError, RecursionError) as error:
            return _fail(error, 400)
        except DanmakuError as error:
            # Statuses up to 428 mean that the request is wrong.
            return _fail(error, error.status if error.status >= 429 else 400, error.retry_after_s)
    finally:
        state.encode_requests -= 1


async def _encode(request: Request, state: State, body: bytes) -> Response:
    caller = Caller(request)
    check_shape(body, "the body")
    request_id, texts = await run_in_thread_if(len(body) > LONG_BYTES, lambda: wire_http.read_request(body))
    plain = [text for text in texts if isinstance(text, str)]
    if len(plain) < len(texts):
        raise ValueError("is_tokenized is supported by workers only, because a gateway caches texts; send texts")
    state.accept_texts(len(plain))
    state.status.count_texts(_identity(request), len(plain))
    embeddings = await caller.wait(state.embedder.embed(plain))
    if embeddings.errors:
        raise NoVector(embeddings.errors[0], "texts")
    return vectors_response({"id": orjson.Fragment(request_id)}, "result", embeddings, {"status": 200})


@router.get("/status/server", responses={status: ERRORS[status] for status in (401, 503)})
async def server(request: Request) -> Response:
    """Returns the fields of bert-serving-server's status; counts requests to `/encode` and `/status/…`."""
    state, identity = get_state(request), _identity(request)
    state.status.count_command(identity)
    status = state.status.status(identity, in_progress=state.encode_requests, obstacle=state.obstacle)
    return _json(wire_http.write_status({**status, **_describe_model(state)}))


@router.get("/status/client", responses={401: ERRORS[401]})
async def client(request: Request) -> Response:
    """Returns the fields that bert-serving-server's HTTP proxy reports about its connection."""
    get_state(request).status.count_command(_identity(request))
    return _json(wire_http.write_status(wire_http.CLIENT_STATUS))


def _identity(request: Request) -> bytes:
    """Returns the client's address, because clients of HTTP have no names."""
    return request.client.host.encode() if request.client else wire_http.CLIENT


def _describe_model(state: State) -> dict[str, Any]:
    model = state.embedder.model
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "dim": model.dim,
        "max_seq_len": model.max_seq_len,
        "num_worker": state.embedder.encoder.concurrency,
        "pooling_layer": model.pooling_layer,
        "pooling_strategy": wire.STRATEGIES.index(model.pooling_strategy),
    }


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _fail(error: Exception, status: int, retry_after_s: int | None = None) -> Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    return Response(wire_http.write_failure(error, status), status, headers, media_type="application/json")
