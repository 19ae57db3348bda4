"""OpenTelemetry, for those who ask for it: a span of a request, and within it one of each stage.

    POST /embed ─┬─ cache     looking up, in memory and Redis
                 └─ encode    of what is missing: waiting in the queue, and the model call

Stages are wrapped where the gateway is assembled, and only then, so without `tracing` a request passes no line of this.
Leaves out batches, which are of many requests and would be spans of many parents, and workers, whose wire has no place
for a trace's id: metrics tell of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.batcher import Batcher
from service.cache.base import Cache
from service.encoders.model import Prepared
from service.errors import ConfigurationError
from service.log import serving
from service.metrics import route_of

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
except ImportError:
    raise ConfigurationError("tracing needs OpenTelemetry: pip install 'danmaku-embedding[otel]'") from None
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EXPORT_TIMEOUT_S = 2  # the end of the gateway waits so long for a collector that is gone


class Tracing:
    """A context manager; spans are sent from when it is entered, and the last ones when it is left.

    Where to, how many of them, and under which name, OpenTelemetry's own variables say: OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME.
    """

    def __init__(self) -> None:
        named = Resource.create({"service.name": "danmaku", "service.version": __version__})
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self.tracer = self._provider.get_tracer("danmaku", __version__)

    def __enter__(self) -> Tracing:
        self._provider.add_span_processor(BatchSpanProcessor(open_exporter()))
        return self

    def __exit__(self, *_: object) -> None:
        self._provider.shutdown()


def open_exporter() -> SpanExporter:
    return OTLPSpanExporter(timeout=EXPORT_TIMEOUT_S)


class TraceRequests:
    """ASGI. The span is a part of the caller's trace if there is a `traceparent` in the head."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app, self._tracer = app, tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        head = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = self._propagator.extract(head)
        route = route_of(scope["path"], is_stream=False)
        attributes = {"http.request.method": scope["method"], "http.route": route}
        if served := serving.get():
            attributes["danmaku.request_id"] = served.id
        name = f"{scope['method']} {route}"
        with self._tracer.start_as_current_span(name, parent, SpanKind.SERVER, attributes) as span:

            async def watch(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, watch)


class TracedCache:
    """See `Cache`."""

    def __init__(self, cache: Cache, tracer: Tracer) -> None:
        self._cache, self._tracer = cache, tracer
        self.set_many, self.close = cache.set_many, cache.close

    async def get_many(self, fingerprint: str, texts: Sequence[str]) -> dict[str, bytes]:
        with self._tracer.start_as_current_span("cache", attributes={"danmaku.texts": len(texts)}) as span:
            found = await self._cache.get_many(fingerprint, texts)
            span.set_attribute("danmaku.found", len(found))
            return found


def traced_batcher(tracer: Tracer) -> type[Batcher]:
    """Its `encode` has a span."""

    class TracedBatcher(Batcher):
        async def encode(self, texts: Sequence[Prepared]) -> list[np.ndarray]:
            with tracer.start_as_current_span("encode", attributes={"danmaku.texts": len(texts)}):
                return await super().encode(texts)

    return TracedBatcher
