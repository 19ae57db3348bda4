"""The gateway: what turns texts into vectors, opened by `assembly.py`, and the routes and middleware in front of it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.middleware.gzip import GZipMiddleware

from service import __version__
from service.api import (
    collection,
    collection_map,
    compat,
    embed,
    openai,
    ops,
    playground,
    similar,
    tokenize,
)
from service.api.gzip import Gunzip
from service.api.keys import require_keys
from service.api.middleware import LimitBody, Observe
from service.api.responses import PlainRoutes, answer_errors
from service.api.state import State
from service.assembly import open_embedder
from service.collections.collections import Collections
from service.collections.default import keep_default
from service.errors import ConfigurationError, DanmakuError, NotFound
from service.log import AccessLog
from service.metrics import Metrics
from service.settings import Settings
from service.status import Status
from service.stores.base import Store
from service.stores.open import open_store

log = logging.getLogger("danmaku")

NO_COLLECTIONS = ("", "none")
DESCRIPTION = "Turns danmaku into vectors and finds the danmaku most like a given one."
EXPOSED_HEADERS = ("Retry-After", "X-Request-ID", "X-Danmaku-Fingerprint", "X-Danmaku-Truncated")  # to scripts


def create_app(settings: Settings) -> FastAPI:
    """The gateway. What it needs is opened when its lifespan starts, which may raise ConfigurationError."""
    metrics = Metrics()
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
            embedder, batcher = await stack.enter_async_context(open_embedder(settings, metrics, tracer))
            opened = await _open_store(settings)
            store: Collections | DanmakuError
            if isinstance(opened, DanmakuError):
                store = opened
            else:
                stack.push_async_callback(opened.close)
                store = Collections(opened, embedder, metrics)
                stack.push_async_callback(_end, asyncio.create_task(keep_default(store), name="default collection"))
            status = Status({"http_port": settings.port}, {})
            app.state.danmaku = State(settings, embedder, batcher, status, store)
            yield

    # FastAPIOffline brings the files of /docs along: plain FastAPI's page would have the browser fetch them elsewhere.
    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        title="danmaku embedding",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        routes=[
            route
            for part in (embed, similar, collection, collection_map, openai, compat, tokenize, ops, playground)
            for route in part.router.routes
        ],
    )
    app.state.metrics = metrics
    app.state.is_stopping = False
    answer_errors(app)
    app.add_middleware(PlainRoutes, routes=app.routes)
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes, timeout_s=settings.receive_timeout_s)
    app.add_middleware(Gunzip)
    if settings.api_key_hashes:
        require_keys(app, settings.api_key_hashes)
    if settings.cors_origins:  # around the keys: a browser asks whether it may send one before it does
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
    app.add_middleware(Observe, metrics=metrics, access_log=access_log)
    return app


async def _open_store(settings: Settings) -> Store | DanmakuError:
    """The store, or what to answer in its place.

    Raises ConfigurationError if one was asked for and cannot be used. The one by default just adds to the gateway: it
    starts without where the directory is read-only, or another gateway was there first.
    """
    if settings.collections in NO_COLLECTIONS:
        return NotFound("collections are turned off in this gateway; --collections sqlite:///PATH turns them on")
    try:
        return await open_store(settings.collections)
    except ConfigurationError as error:
        if "collections" in settings.model_fields_set:
            raise
        log.warning("No collections: %s. --collections sqlite:///PATH puts them elsewhere.", error)
        return NotFound(
            f"this gateway has no collections, since {error}; --collections sqlite:///PATH puts them elsewhere"
        )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
