"""Assembles the gateway: the embedder, the collections, the routes and the middleware."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

from service import __version__
from service.accounts import Accounts
from service.api import classify, docs, embed, ops, playground, similar, tokenize
from service.api.chat import highlights, merge
from service.api.collections import collection, collection_map, observe
from service.api.compatible import bert_as_service, openai, text_embeddings_inference
from service.api.http.body import ReceiveBody
from service.api.http.keys import require_keys
from service.api.http.middleware import AnswerErrors, Observe
from service.api.http.pages import RefuseForeignPages
from service.api.http.responses import PlainRoutes, raise_http_error
from service.api.http.state import State
from service.chat.sameness import open_judge
from service.collections.collections import Collections
from service.collections.default import keep_default
from service.embedder import find_model_directory, open_embedder
from service.encoders.base import Encoder
from service.errors import ConfigurationError, DanmakuError, EncoderUnavailable, NotFound
from service.heads.heads import Heads
from service.log import AccessLog
from service.memory import Memory
from service.metrics import Metrics
from service.settings import Settings
from service.status import Status
from service.stores.base import Store
from service.stores.open import open_store

log = logging.getLogger("danmaku")

NO_COLLECTIONS = ("", "none")
DESCRIPTION = "Turns danmaku into vectors and finds the danmaku most similar to a given one."
# Response headers that scripts of other origins may read.
EXPOSED_HEADERS = ("Retry-After", "X-Request-ID", "X-Danmaku-Fingerprint", "X-Danmaku-Truncated", "X-Danmaku-Unknown")


def create_app(settings: Settings, *, encoder: Encoder | None = None) -> FastAPI:
    """Creates the gateway. Its lifespan opens what it needs; both may raise ConfigurationError.

    `encoder` replaces the one that the settings name.
    """
    metrics = Metrics([path.resolve().name for path in settings.heads])
    accounts = Accounts(settings.api_key_hashes, settings.api_keys_file, metrics)
    tracing = None
    if settings.tracing:
        from service.tracing import TraceRequests, Tracing

        tracing = Tracing()
    access_log = AccessLog() if settings.access_log and sys.stdout else None  # stdout may be closed

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if access_log:
                stack.enter_context(access_log)
            if tracing:
                stack.enter_context(tracing)
            tracer = tracing.tracer if tracing else None
            judge = open_judge(None if encoder else find_model_directory(settings))
            # The other half is for a list's own texts.
            opening = open_embedder(
                settings, metrics, tracer=tracer, encoder=encoder, max_wait_s=settings.request_timeout_s / 2
            )
            embedder = await stack.enter_async_context(opening)
            heads = await asyncio.to_thread(Heads, settings.heads, metrics)
            with suppress(EncoderUnavailable):  # workers that are not known yet: every request checks
                heads.check(embedder.model)
            if settings.heads:
                stack.push_async_callback(_cancel, asyncio.create_task(heads.watch(), name="heads"))
            opened = await _open_store(settings)
            store: Collections | DanmakuError
            if isinstance(opened, DanmakuError):
                store = opened
            else:
                stack.push_async_callback(opened.close)
                store = Collections(
                    opened,
                    embedder,
                    metrics,
                    max_collections=settings.max_collections,
                    max_items=settings.max_collection_items,
                )
                stack.push_async_callback(_cancel, asyncio.create_task(keep_default(store), name="default collection"))
            status = Status({"http_port": settings.port}, {})
            app.state.danmaku = State(settings, metrics, embedder, status, store, judge, accounts, heads)
            yield

    # FastAPIOffline serves the files of /docs itself; plain FastAPI's page loads them from another host.
    app: FastAPI = FastAPIOffline(
        docs_url=None,  # see api/docs.py
        redoc_url=None,
        redirect_slashes=False,  # it would redirect to the Host of the request
        title="danmaku embedding",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours are in tracing.py, metrics.py and log.py
        routes=[
            route
            for part in (
                *(embed, text_embeddings_inference, similar),
                *(merge, highlights, observe, collection, collection_map, classify),
                *(openai, bert_as_service, tokenize),
                *(ops, playground, docs),
            )
            for route in part.router.routes
        ],
    )
    # Innermost first.
    app.add_exception_handler(HTTPException, raise_http_error)
    app.add_middleware(PlainRoutes, routes=app.routes)
    app.add_middleware(ReceiveBody, timeout_s=settings.receive_timeout_s)
    if accounts:
        require_keys(app, accounts)
    hosts = None if accounts and not settings.allowed_hosts else settings.allowed_hosts
    app.add_middleware(RefuseForeignPages, hosts=hosts, origins=settings.cors_origins)
    app.add_middleware(AnswerErrors)
    if settings.cors_origins:  # outside the keys, because a browser sends its preflight request without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    if settings.gzip_level:
        app.add_middleware(GZipMiddleware, compresslevel=settings.gzip_level)
    if tracing:
        app.add_middleware(TraceRequests, tracer=tracing.tracer)
    memory = Memory(settings.max_held_bytes, metrics)
    app.add_middleware(Observe, metrics=metrics, memory=memory, access_log=access_log)
    return app


async def _open_store(settings: Settings) -> Store | DanmakuError:
    """Returns the store, or the error to answer in its place.

    Raises ConfigurationError if the settings name a store that cannot be used. If the default store cannot be used
    (read-only directory, locked by another gateway), the gateway starts without collections.
    """
    if settings.collections in NO_COLLECTIONS:
        return NotFound("collections are disabled in this gateway; --collections sqlite:///PATH enables them")
    try:
        return await open_store(settings.collections)
    except ConfigurationError as error:
        if "collections" in settings.model_fields_set:
            raise
        log.warning("No collections: %s. --collections sqlite:///PATH stores them elsewhere.", error)
        return NotFound(f"this gateway has no collections: {error}; --collections sqlite:///PATH stores them elsewhere")


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
