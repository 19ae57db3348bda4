"""Optional OpenTelemetry: a span for each request, and inside it one for each stage.

    POST /embed ─┬─ cache     look-ups in memory and Redis
                 └─ encode    missing texts: waiting in the queue, and the model call

Stages are wrapped when the gateway is assembled, so without `tracing` a request runs none of this code. Batches have no
span, because they belong to many requests; workers have none, because their protocol has no place for a trace id.
Metrics cover both.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.batcher import Batcher
from service.cache.base import Cache
from service.encoders.model import Prepared
from service.errors import ConfigurationError
from service.log import current_request
from service.metrics import name_route

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
except ImportError:
    raise ConfigurationError("tracing needs OpenTelemetry: pip install 'danmaku-embedding[otel]'") from None
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EXPORT_TIMEOUT_S = 2  # how long a stopping gateway waits for a collector that is gone


class Tracing:
    """A context manager that sends spans while it is open, and the last ones when it closes.

    OpenTelemetry's own variables set the destination, the sampling and the name: OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME.
    """

    def __init__(self) -> None:
        resource = Resource.create({"service.name": "danmaku", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracer = self._provider.get_tracer("danmaku", __version__)

    def __enter__(self) -> Tracing:
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_TIMEOUT_S)))
        return self

    def __exit__(self, *_: object) -> None:
        self._provider.shutdown()


class TraceRequests:
    """ASGI middleware. The span joins the caller's trace if the request has a `traceparent` header."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app, self._tracer = app, tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        head = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = self._propagator.extract(head)
        route = name_route(scope["path"], is_stream=False)
        attributes = {"http.request.method": scope["method"], "http.route": route}
        if record := current_request.get():
            attributes["danmaku.request_id"] = record.id
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
    """A `Cache` whose look-ups have a span."""

    def __init__(self, cache: Cache, tracer: Tracer) -> None:
        self._cache, self._tracer = cache, tracer
        self.set_many, self.close = cache.set_many, cache.close

    async def get_many(
        self, fingerprint: str, texts: Sequence[str], *, vector_bytes: int | None = None
    ) -> dict[str, bytes]:
        with self._tracer.start_as_current_span("cache", attributes={"danmaku.texts": len(texts)}) as span:
            found = await self._cache.get_many(fingerprint, texts, vector_bytes=vector_bytes)
            span.set_attribute("danmaku.found", len(found))
            return found


def make_traced_batcher(tracer: Tracer) -> type[Batcher[bytes]]:
    """Returns a Batcher whose `encode` has a span."""

    class TracedBatcher(Batcher[bytes]):
        async def encode(self, texts: Sequence[Prepared], *, payer: str = "") -> list[bytes]:
            with tracer.start_as_current_span("encode", attributes={"danmaku.texts": len(texts)}):
                return await super().encode(texts, payer=payer)

    return TracedBatcher
