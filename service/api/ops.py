"""Contains the routes for operators and their tools: liveness, readiness, information, metrics."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.accounts import current_account
from service.api.http.responses import ERRORS, PlainRoute, error_response, json_response
from service.api.http.state import get_state
from service.collections.collections import Collections
from service.errors import EncoderUnavailable, NotFound, StoreUnavailable

OPERATION_PATHS = ("/healthz", "/readyz", "/metrics")

router = APIRouter(tags=["operation"], route_class=PlainRoute)


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """Reports that the event loop runs. Never asks the encoder, which may just be busy."""
    return json_response({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Returns 503 with the reason while the queue is nearly full, the encoder fails, or the service is stopping.

    It depends on the results of the last requests; nothing is sent to the encoder.
    """
    if obstacle := get_state(request).obstacle:
        raise EncoderUnavailable(obstacle)
    return json_response({"status": "ready"})


@router.get("/health", responses={503: ERRORS[503]})
async def health(request: Request) -> Response:
    """Returns what `GET /readyz` does, under text-embeddings-inference's name."""
    return await readyz(request)


@router.get("/info", responses={status: ERRORS[status] for status in (401, 503)})
async def info(request: Request) -> Response:
    """Returns what is loaded, and the limits for requests."""
    state = get_state(request)
    model, settings = state.embedder.model, state.settings
    return json_response(
        {
            "version": __version__,
            "model": model.name,
            "fingerprint": model.fingerprint,
            "dim": model.dim,
            "max_seq_len": model.max_seq_len,
            "pooling_layer": model.pooling_layer,
            "pooling_strategy": model.pooling_strategy,
            "max_text_characters": settings.max_text_characters,
            "max_request_texts": settings.max_request_texts,
            "max_body_bytes": settings.max_body_bytes,
            "workers": state.embedder.encoder.workers,
            "heads": {
                name: {"version": head.version, "labels": head.labels, "fingerprint": head.encoder.fingerprint}
                for name, head in state.heads.loaded.items()
            },
            # What clients of text-embeddings-inference read.
            "model_id": model.name,
            "model_sha": model.fingerprint,
            "model_type": {"embedding": {"pooling": model.pooling_strategy}},
            "max_input_length": model.max_seq_len,
            "max_client_batch_size": settings.max_request_texts,
            "auto_truncate": True,
        }
    )


class KeyUsageBody(BaseModel):
    key: str = Field(description="Name of the key; `unnamed` stands for the keys of --api-key-hashes.")
    texts_today: int = Field(description="Since midnight UTC, or since the start of this gateway.")
    texts_per_day: int | None
    texts_per_s: float | None
    refused_today: int = Field(description="Requests that got 429 because of the key's limits.")
    day_ends_in_s: int


class UsageBody(BaseModel):
    keys: list[KeyUsageBody]


@router.get("/usage", responses={401: ERRORS[401], 200: {"model": UsageBody}})
async def usage(request: Request) -> Response:
    """Returns what API keys have used today: a named key sees its own usage, others see all. Costs nothing."""
    accounts = get_state(request).accounts.visible_to(current_account.get())
    return json_response({"keys": [account.usage() for account in accounts]})


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(request: Request) -> Response:
    """Returns metrics in Prometheus' text format."""
    state = get_state(request)
    state.metrics.ready.set(state.obstacle is None)
    if isinstance(state.store, Collections):
        with suppress(StoreUnavailable):
            await state.store.measure()
    with suppress(EncoderUnavailable):
        model = state.embedder.model
        state.metrics.show_model(model.name, model.fingerprint, model.dim)
    return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


class OperationOnly:
    """ASGI application that answers the probes and metrics of another one, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPERATION_PATHS:
            error = NotFound(f"no route {scope['path']} on this port; it has {', '.join(OPERATION_PATHS)}")
            return await error_response(error)(scope, receive, send)
        await self._app(scope, receive, send)
