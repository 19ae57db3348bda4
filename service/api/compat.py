"""bert-serving-server's HTTP, for its clients: see `wire_http` for what it takes and gives.

A text without a vector fails its list, since that shape has no place to say so. Failures are 400, as the genuine ones,
but for those that are not the caller's doing: they keep their status, so that whoever retries knows when to.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from service import wire, wire_http
from service.api.reading import read_body
from service.api.responses import ERRORS, PlainRoute
from service.api.schemas import EncodeFailure, EncodeRequest, EncodeResponse
from service.api.state import Caller, State, state_of
from service.errors import BodyTimeout, ClientGone, DanmakuError, NoVector

router = APIRouter(tags=["bert-serving-server's shape"], route_class=PlainRoute)

FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": EncodeFailure, "description": "Not what this route takes; `description` says why."},
    **{status: {**ERRORS[status], "model": EncodeFailure} for status in (429, 503, 504)},
    **{status: ERRORS[status] for status in (401, 408, 413, 415)},
}


@router.post("/encode", openapi_extra=EncodeRequest.openapi(), responses={**FAILURES, 200: {"model": EncodeResponse}})
async def encode(request: Request) -> Response:
    """Vectors of texts, in their order: those of `POST /embed`."""
    status = state_of(request).status
    status.in_progress += 1
    try:
        return await _encode(request)
    except (ClientGone, BodyTimeout):
        raise
    except (ValueError, RecursionError) as error:
        return _failure(error, 400)
    except DanmakuError as error:
        # Those up to 428 say that the request is not well.
        return _failure(error, error.status if error.status >= 429 else 400, error.retry_after_s)
    finally:
        status.in_progress -= 1


async def _encode(request: Request) -> Response:
    caller, state = Caller(request), state_of(request)
    request_id, texts = wire_http.read_request(await read_body(request.receive))
    plain = [text for text in texts if isinstance(text, str)]
    if len(plain) < len(texts):
        raise ValueError("is_tokenized is for workers, since here the cache knows texts only; send texts")
    state.accept_texts(len(plain))
    state.status.count_texts(_identity(request), len(plain))
    embeddings = await state.embedder.embed(plain, caller.wait)
    if embeddings.errors:
        raise NoVector(embeddings.errors[0], "texts")
    return _json(await asyncio.to_thread(wire_http.write_vectors, request_id, embeddings.vectors))


@router.get("/status/server", responses={status: ERRORS[status] for status in (401, 503)})
async def server(request: Request) -> Response:
    """The fields of bert-serving-server's status; the requests counted are those of `/encode` and `/status/…`."""
    state, identity = state_of(request), _identity(request)
    state.status.count_command(identity)
    obstacle = state.embedder.encoder.obstacle or state.batcher.obstacle
    told = state.status.status(identity, in_progress=state.status.in_progress, obstacle=obstacle)
    return _json(wire_http.write_status({**told, **_model(state)}))


@router.get("/status/client", responses={401: ERRORS[401]})
async def client(request: Request) -> Response:
    """What a connection of bert-serving-server's HTTP proxy says of itself."""
    state_of(request).status.count_command(_identity(request))
    return _json(wire_http.write_status(wire_http.CLIENT_STATUS))


def _identity(request: Request) -> bytes:
    """Clients of HTTP have no names; the genuine server has one for all of them."""
    return request.client.host.encode() if request.client else wire_http.CLIENT


def _model(state: State) -> dict[str, Any]:
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


def _failure(error: Exception, status: int, retry_after_s: int | None = None) -> Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    return Response(wire_http.write_failure(error, status), status, headers, media_type="application/json")
