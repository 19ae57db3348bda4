"""Defines all Prometheus metrics of the gateway (`Metrics`) and of a worker (`WorkerMetrics`).

Label sets are closed and their series exist from the start, so a rate is 0 before the first event and not absent.
Children of labelled metrics are made here and kept: `labels()` costs more than counting. Each application has one
object with its own registry; a process serves one application, so it exports that registry.

Both have a batcher. Its metrics have a different prefix in each, so they differ whatever a scrape calls its jobs.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from service import __version__

# They would add a series that nobody reads to every counter and histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]  # of prometheus-client

STREAM = " stream"  # separate label: a stream may take hours, which would hide the times of other requests
ROUTES = (
    *(
        "/embed",
        "/embed stream",
        "/similar",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{id}",
        "/encode",
        "/status/server",
        "/status/client",
    ),
    *("/collections", "/collections/{name}", "/collections/{name}/danmaku", "/collections/{name}/danmaku stream"),
    *("/collections/{name}/danmaku/{id}", "/collections/{name}/delete", "/collections/{name}/rebuild"),
    *("/collections/{name}/map", "/", "/static", "/playground/embed"),
    *("/live", "/playground/chat stream"),
    *("/merge", "/merge stream", "/highlights"),
    *("/classify", "/classify stream", "/predict"),
    *("/collections/{name}/observe", "/collections/{name}/topics", "/collections/{name}/topics stream"),
    *("/tokenize", "/similarity", "/healthz", "/readyz", "/health", "/info", "/usage", "/metrics", "other"),
)
OUTCOMES = ("ok", "invalid", "refused", "expired", "gone", "failed")
WORKER_OUTCOMES = ("ok", "invalid", "failed", "unclaimed")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
NAMED = re.compile("/collections/[^/]+(?:(/danmaku)(/.+)?|(/delete|/rebuild|/map|/observe|/topics))?")
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def name_route(path: str, *, is_stream: bool) -> str:
    """Returns one of ROUTES, without the names and ids in the path, whose number is unbounded."""
    if path.startswith("/collections/") and (parts := NAMED.fullmatch(path)):
        danmaku, item_id, rest = parts.groups("")
        path = f"/collections/{{name}}{danmaku}{'/{id}' if item_id else rest}"
    elif path.startswith("/static/"):
        path = "/static"
    elif path.startswith("/v1/models/"):
        path = "/v1/models/{id}"
    if is_stream:
        path += STREAM
    return path if path in ROUTES else "other"


class BatcherMetrics:
    """Metrics of a queue before a model, the model's calls, the model and the process."""

    def __init__(self, prefix: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        build = Info(f"{prefix}_build", "The version of this software, and of Python.", registry=registry)
        build.info({"version": __version__, "python": platform.python_version()})

        self.queue_texts = Gauge(f"{prefix}_queue_texts", "Texts waiting for the encoder.", registry=registry)
        self.in_flight_texts = Gauge(f"{prefix}_in_flight_texts", "Texts in the encoder.", registry=registry)
        self.refused_texts = Counter(
            f"{prefix}_refused_texts", "Texts refused because the queue was full.", registry=registry
        )
        self.expired_texts = Counter(
            f"{prefix}_expired_texts",
            "Texts that left the queue because their callers were out of time or hung up.",
            registry=registry,
        )
        self.queue_seconds = Histogram(
            f"{prefix}_queue_seconds", "Time a text waited for the encoder.", registry=registry, buckets=SECONDS
        )
        self.encode_seconds = Histogram(
            f"{prefix}_encode_seconds", "Duration of a model call.", registry=registry, buckets=SECONDS
        )
        self.batch_texts = Histogram(
            f"{prefix}_batch_texts", "Texts in a model call.", registry=registry, buckets=COUNTS
        )
        self.batch_tokens = Counter(f"{prefix}_batch_tokens", "Tokens encoded, without padding.", registry=registry)
        self.padding_tokens = Counter(f"{prefix}_padding_tokens", "Padding tokens encoded.", registry=registry)
        self._model = Gauge(
            f"{prefix}_model_info",
            "The model in service; always 1.",
            ["model", "fingerprint", "dim"],
            registry=registry,
        )

    def show_model(self, name: str, fingerprint: str, dim: int) -> None:
        """Sets the only series of model_info: models may change while the process runs."""
        self._model.clear()
        self._model.labels(name, fingerprint, str(dim)).set(1)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Metrics(BatcherMetrics):
    """Metrics of the gateway."""

    def __init__(self, heads: Sequence[str] = ()) -> None:
        """`heads` are the names of the heads in the settings."""
        super().__init__("danmaku")
        registry = self.registry
        self.ready = Gauge("danmaku_ready", "1 while /readyz answers 200.", registry=registry)
        requests = Counter(
            "danmaku_requests", "HTTP requests answered, by route and outcome.", ["route", "outcome"], registry=registry
        )
        self.requests = {(r, o): requests.labels(r, o) for r in ROUTES for o in OUTCOMES}
        seconds = Histogram(
            "danmaku_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["route"],
            registry=registry,
            buckets=SECONDS,
        )
        self.request_seconds = {route: seconds.labels(route) for route in ROUTES}

        self._key_requests = Counter(
            "danmaku_key_requests", "HTTP requests by API key and outcome.", ["key", "outcome"], registry=registry
        )
        self._key_texts = Counter("danmaku_key_texts", "Texts charged to an API key.", ["key"], registry=registry)

        self.texts = Counter("danmaku_texts", "Texts in requests, by any route that embeds.", registry=registry)
        self.truncated = Counter(
            "danmaku_truncated_texts", "Texts longer than max_seq_len, embedded without their end.", registry=registry
        )
        errors = Counter(
            "danmaku_text_errors", "Texts that could not be embedded, by reason.", ["error_type"], registry=registry
        )
        self.text_errors = {kind: errors.labels(kind) for kind in ("empty_text", "unspellable", "text_too_long")}

        classified = Counter("danmaku_head_texts", "Texts classified, by head.", ["head"], registry=registry)
        self.classified = {head: classified.labels(head) for head in heads}
        changes = Counter(
            "danmaku_head_changes",
            "Changes of a head's folder; refused: the head in service stays.",
            ["head", "result"],
            registry=registry,
        )
        self.head_changes = {(h, r): changes.labels(h, r) for h in heads for r in ("exchanged", "refused")}

        lookups = Counter(
            "danmaku_cache_lookups", "Cache look-ups, by tier and result.", ["tier", "result"], registry=registry
        )
        self.cache_hits = lookups.labels("memory", "hit")
        self.cache_misses = lookups.labels("memory", "miss")
        self.redis_lookups = {result: lookups.labels("redis", result) for result in ("hit", "miss", "skipped")}
        redis_errors = Counter("danmaku_redis_errors", "Errors of Redis, by kind.", ["kind"], registry=registry)
        self.redis_errors = {kind: redis_errors.labels(kind) for kind in ("timeout", "failed", "refused", "damaged")}
        self.redis_unwritten = Counter(
            "danmaku_redis_unwritten_texts", "Texts whose vectors were not written to Redis.", registry=registry
        )
        self.redis_breaker_open = Gauge(
            "danmaku_redis_breaker_open", "1 while Redis is left alone after failures.", registry=registry
        )
        self.cache_bytes = Gauge("danmaku_cache_bytes", "Memory used by the cache.", registry=registry)
        self.cache_texts = Gauge("danmaku_cache_texts", "Texts in the memory cache.", registry=registry)

        self.held_bytes = Gauge(
            "danmaku_held_bytes", "Memory held by large requests and answers in progress.", registry=registry
        )
        self.held_limit_bytes = Gauge(
            "danmaku_held_limit_bytes", "Limit of held memory; beyond it, requests are refused.", registry=registry
        )
        self.refused_bytes = Counter(
            "danmaku_refused_bytes", "Memory that requests were refused because of the limit.", registry=registry
        )

        self.connections = Gauge("danmaku_connections", "Open connections.", registry=registry)
        self.connections_limit = Gauge(
            "danmaku_connections_limit",
            "Maximum of open connections; beyond it, idle ones are closed.",
            registry=registry,
        )
        dropped = Counter(
            "danmaku_connections_dropped",
            "Connections closed for others, by what they did; refused: no other could be closed.",
            ["stage"],
            registry=registry,
        )
        self.connections_dropped = {stage: dropped.labels(stage) for stage in ("idle", "receiving", "refused")}

        self.queue_limit_texts = Gauge(
            "danmaku_queue_limit_texts", "Size of the queue; beyond it, requests are refused.", registry=registry
        )
        self.workers_known = Gauge("danmaku_workers_known", "Workers the gateway tries to reach.", registry=registry)
        self.workers_ready = Gauge("danmaku_workers_ready", "Workers that accept texts.", registry=registry)
        self.worker_fingerprints = Gauge(
            "danmaku_worker_fingerprints", "Number of different models among the ready workers.", registry=registry
        )
        self.worker_ping_seconds = Histogram(
            "danmaku_worker_ping_seconds",
            "Round-trip time of a ping to a worker.",
            registry=registry,
            buckets=SECONDS,
        )
        retried = Counter(
            "danmaku_calls_retried",
            "Batches sent to a second worker, by what happened at the first.",
            ["reason"],
            registry=registry,
        )
        self.calls_retried = {reason: retried.labels(reason) for reason in ("lost", "failed", "slow")}
        self.search_seconds = Histogram(
            "danmaku_search_seconds", "Duration of a search in a collection.", registry=registry, buckets=SECONDS
        )
        self.collections = Gauge("danmaku_collections", "Number of collections.", registry=registry)
        self.collection_items = Gauge("danmaku_collection_items", "Danmaku in all collections.", registry=registry)
        self.collection_damaged = Gauge(
            "danmaku_collection_damaged_items",
            "Danmaku left out of collections because they are damaged on the disk.",
            registry=registry,
        )
        self.collection_bytes = Gauge("danmaku_collection_bytes", "Bytes used by collections.", registry=registry)

    def add_key(self, name: str) -> tuple[dict[str, Counter], Counter]:
        """Returns the counters of an API key: its requests by outcome, and its texts. Settings name all keys."""
        return {o: self._key_requests.labels(name, o) for o in OUTCOMES}, self._key_texts.labels(name)


class WorkerMetrics(BatcherMetrics):
    """Metrics of `danmaku worker`, whose clients are gateways and BertClients; requests over HTTP are not counted."""

    def __init__(self) -> None:
        super().__init__("danmaku_worker")
        registry = self.registry
        requests = Counter(
            "danmaku_worker_requests",
            "Requests for vectors, by outcome; unclaimed: nobody listened to the answer.",
            ["outcome"],
            registry=registry,
        )
        self.requests = {outcome: requests.labels(outcome) for outcome in WORKER_OUTCOMES}
        self.request_seconds = Histogram(
            "danmaku_worker_request_seconds",
            "Time from a request's arrival to its answer.",
            registry=registry,
            buckets=SECONDS,
        )
        self.texts = Counter("danmaku_worker_texts", "Texts in requests.", registry=registry)
        self.requests_in_progress = Gauge(
            "danmaku_worker_requests_in_progress", "Requests read and not yet answered.", registry=registry
        )
        self.held_bytes = Gauge("danmaku_worker_held_bytes", "Memory held by requests in progress.", registry=registry)
        self.held_limit_bytes = Gauge(
            "danmaku_worker_held_limit_bytes",
            "Limit of held memory; beyond it, no request is read until others are done.",
            registry=registry,
        )
        self.active_clients = Gauge(
            "danmaku_worker_active_clients", "Clients that sent texts within the last three minutes.", registry=registry
        )
