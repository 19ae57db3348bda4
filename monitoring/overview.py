"""The overview answers an operator's questions from top to bottom: are users served, what do they ask, how long do they
wait, what fills up, what does the cache do, which model is it. Numbers are of all gateways that are chosen at the top.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import timeseries

from monitoring.panels import (
    BAD,
    BYTES,
    COUNT,
    GOOD,
    PER_SECOND,
    REQUESTS_PER_SECOND,
    SECONDS,
    SHARE,
    WARNING,
    facts,
    heat,
    lines,
    number,
    page,
    percentiles,
    row,
)

OBJECTIVE_S = 0.25  # of latency, as in rules/objectives.yml

UNANSWERED = 'sum(rate(danmaku_requests_total{outcome=~"refused|expired|failed", USERS}[RATE]))'
ANSWERS = 'sum(rate(danmaku_requests_total{outcome!="gone", USERS}[RATE]))'
LOOK_UPS = 'sum(rate(danmaku_cache_lookups_total{tier="memory", GATEWAYS}[RATE]))'
BUCKETS = "danmaku_request_seconds_bucket{VECTORS}"


def overview() -> builders.Dashboard:
    it = page("danmaku-overview", "danmaku: overview", "gateway", "danmaku_build_info")
    row(
        it,
        "Are users served?",
        number(
            "Gateways ready",
            "Gateways that answer /readyz with 200. With none, nobody is served.",
            "sum(danmaku_ready{GATEWAYS})",
            COUNT,
            ((0, BAD), (1, GOOD)),
        ),
        number(
            "Unanswered",
            "Share of the requests that were refused (429, 503), expired (504) or failed. The objective is 0.1 %.",
            f"{UNANSWERED} / {ANSWERS}",
            SHARE,
            ((0.001, WARNING), (0.0144, BAD)),
        ),
        number(
            "Slow",
            "Share of the requests for vectors that took more than 250 ms. The objective is 1 %.",
            '1 - sum(rate(danmaku_request_seconds_bucket{le="0.25", VECTORS}[RATE]))'
            " / sum(rate(danmaku_request_seconds_count{VECTORS}[RATE]))",
            SHARE,
            ((0.01, WARNING), (0.144, BAD)),
        ),
        number(
            "Requests",
            "HTTP requests a second, without those of health checks and Prometheus.",
            "sum(rate(danmaku_requests_total{USERS}[RATE]))",
            REQUESTS_PER_SECOND,
            (),
        ),
        number(
            "Cache hits",
            "Share of the look-ups that were answered from memory or Redis. It falls when the model changes and when "
            "Redis is gone.",
            f'sum(rate(danmaku_cache_lookups_total{{result="hit", GATEWAYS}}[RATE])) / {LOOK_UPS}',
            SHARE,
            ((0, WARNING), (0.1, GOOD)),
        ),
        number(
            "Models",
            "Different fingerprints that gateways serve. More than one: a change of model is on its way, or stuck.",
            "count(count by (fingerprint) (danmaku_model_info{GATEWAYS}))",
            COUNT,
            ((2, WARNING),),
        ),
        _budget(
            "Budget spent: availability",
            "How many times as quickly as allowed the error budget of 30 days is spent: 1 just lasts, 14.4 for an "
            "hour wakes somebody.",
            "danmaku:unanswered:ratio_rate{} / 0.001",
        ),
        _budget(
            "Budget spent: latency",
            "The same for requests for vectors that took more than 250 ms, of which 1 % are allowed.",
            "danmaku:slow:ratio_rate{} / 0.01",
        ),
    )
    row(
        it,
        "What do they ask?",
        lines(
            "Requests by route",
            "Health checks and Prometheus left out. A stream counts once, when it ends.",
            {"{{route}}": "sum by (route) (rate(danmaku_requests_total{USERS}[RATE])) > 0 or on () vector(0)"},
            REQUESTS_PER_SECOND,
            stacked=True,
        ),
        lines(
            "Requests by outcome",
            "Those that are invalid are the callers' doing, gone are those who hung up; the rest is ours.",
            {"{{outcome}}": "sum by (outcome) (rate(danmaku_requests_total{USERS}[RATE]))"},
            REQUESTS_PER_SECOND,
            stacked=True,
        ),
        lines(
            "Texts",
            "Texts a second: asked for, encoded, and those that the queue refused or that left it since nobody waited "
            "any more. What is asked and not encoded comes from the cache.",
            {
                "asked for": "sum(rate(danmaku_texts_total{GATEWAYS}[RATE]))",
                "encoded": "sum(rate(danmaku_batch_texts_sum{GATEWAYS}[RATE]))",
                "refused": "sum(rate(danmaku_refused_texts_total{GATEWAYS}[RATE]))",
                "expired": "sum(rate(danmaku_expired_texts_total{GATEWAYS}[RATE]))",
            },
            PER_SECOND,
        ),
        lines(
            "Texts without a vector",
            "By reason: blank, nothing of it in the vocabulary, too long. And texts whose end was cut off.",
            {
                "{{error_type}}": "sum by (error_type) (rate(danmaku_text_errors_total{GATEWAYS}[RATE]))",
                "truncated": "sum(rate(danmaku_truncated_texts_total{GATEWAYS}[RATE]))",
            },
            PER_SECOND,
        ),
        lines(
            "Collections",
            "Danmaku in all collections, of the gateway that has most: several may share one store.",
            {
                "danmaku": "max(danmaku_collection_items{GATEWAYS})",
                "collections": "max(danmaku_collections{GATEWAYS})",
                "damaged danmaku": "max(danmaku_collection_damaged_items{GATEWAYS})",
            },
            COUNT,
        ),
        lines(
            "Memory and disk of collections",
            "What collections take, of the gateway that has most.",
            {"bytes": "max(danmaku_collection_bytes{GATEWAYS})"},
            BYTES,
        ),
    )
    row(
        it,
        "How long do they wait?",
        percentiles(
            "Latency of requests for vectors",
            "From a request's head to its answer; estimated within the buckets of the heat map. Streams are left out.",
            BUCKETS,
            ((OBJECTIVE_S, WARNING), (1, BAD)),
        ),
        heat(
            "Latency of requests for vectors, heat map",
            "How many requests took how long. Two bands are usual: what the cache answers, and what is encoded.",
            BUCKETS,
            ((OBJECTIVE_S, WARNING),),
        ),
        lines(
            "Latency by route, p90",
            "Of routes that are asked.",
            {
                "{{route}}": "histogram_quantile(0.9, sum by (le, route) "
                "(rate(danmaku_request_seconds_bucket{USERS}[RATE]))) > 0 or on () vector(0)"
            },
            SECONDS,
            ((OBJECTIVE_S, WARNING), (1, BAD)),
        ),
        percentiles(
            "Wait for the encoder",
            "Of texts that are not in the cache. It grows when more comes than can be encoded, first of long lists.",
            "danmaku_queue_seconds_bucket{GATEWAYS}",
            ((OBJECTIVE_S, WARNING), (1, BAD)),
        ),
        percentiles(
            "Model calls",
            "With workers, from sending a batch to having its vectors.",
            "danmaku_encode_seconds_bucket{GATEWAYS}",
            ((OBJECTIVE_S, WARNING), (1, BAD)),
        ),
        percentiles(
            "Searches in collections",
            "Without embedding the query.",
            "danmaku_search_seconds_bucket{GATEWAYS}",
            ((0.1, WARNING), (1, BAD)),
        ),
    )
    row(
        it,
        "What fills up?",
        lines(
            "Queue",
            "Share of its room that is taken. From 80 % on a gateway is not ready, at 100 % it refuses requests.",
            {"{{instance}}": "danmaku_queue_texts{GATEWAYS} / danmaku_queue_limit_texts"},
            SHARE,
            ((0.5, WARNING), (0.8, BAD)),
        ),
        lines(
            "Cores",
            "Cores that a gateway uses. All but model calls is done by one: a gateway in front of workers is at its "
            "limit near 1, and wants a second one beside it.",
            {
                "{{instance}}": "rate(process_cpu_seconds_total{GATEWAYS}[RATE])"
                " * on (job, instance) group_left danmaku_build_info"
            },
            COUNT,
            ((0.8, WARNING),),
        ),
        lines(
            "Memory",
            "Resident memory of a gateway, and what its cache accounts for.",
            {
                "{{instance}}": "process_resident_memory_bytes{GATEWAYS}"
                " * on (job, instance) group_left danmaku_build_info",
                "{{instance}}, cache": "danmaku_cache_bytes{GATEWAYS}",
            },
            BYTES,
        ),
        lines(
            "Texts waiting and in the encoder",
            "In the encoder, or on their way to a worker and back.",
            {
                "waiting": "sum(danmaku_queue_texts{GATEWAYS})",
                "in the encoder": "sum(danmaku_in_flight_texts{GATEWAYS})",
            },
            COUNT,
        ),
        lines(
            "Batch",
            "Texts and tokens of a model call, on average.",
            {
                "texts": "sum(rate(danmaku_batch_texts_sum{GATEWAYS}[RATE]))"
                " / sum(rate(danmaku_batch_texts_count{GATEWAYS}[RATE]))",
                "tokens": "sum(rate(danmaku_batch_tokens_total{GATEWAYS}[RATE]))"
                " / sum(rate(danmaku_batch_texts_count{GATEWAYS}[RATE]))",
            },
            COUNT,
        ),
        lines(
            "Padding",
            "Share of padding beside the tokens of a call. Little, if texts of like length come together.",
            {
                "padding": "sum(rate(danmaku_padding_tokens_total{GATEWAYS}[RATE]))"
                " / (sum(rate(danmaku_padding_tokens_total{GATEWAYS}[RATE]))"
                " + sum(rate(danmaku_batch_tokens_total{GATEWAYS}[RATE])))"
            },
            SHARE,
            ((0.3, WARNING), (0.6, BAD)),
        ),
    )
    row(
        it,
        "What does the cache do?",
        lines(
            "Look-ups by result",
            "In memory, and what memory misses in Redis; skipped while Redis is left alone.",
            {"{{tier}} {{result}}": "sum by (tier, result) (rate(danmaku_cache_lookups_total{GATEWAYS}[RATE]))"},
            PER_SECOND,
            width=6,
            stacked=True,
        ),
        lines(
            "Redis errors",
            "By kind; and texts whose vectors were not written. A request never fails of it.",
            {
                "{{kind}}": "sum by (kind) (rate(danmaku_redis_errors_total{GATEWAYS}[RATE]))",
                "not written": "sum(rate(danmaku_redis_unwritten_texts_total{GATEWAYS}[RATE]))",
            },
            PER_SECOND,
            ((1, WARNING),),
            width=6,
        ),
        lines(
            "Texts in memory",
            "That a gateway's own cache holds; it gives up those that were not asked for longest.",
            {"{{instance}}": "danmaku_cache_texts{GATEWAYS}"},
            COUNT,
            width=6,
        ),
        lines(
            "Redis left alone",
            "It is 1 while the circuit breaker is open after failures.",
            {"{{instance}}": "danmaku_redis_breaker_open{GATEWAYS}"},
            COUNT,
            ((1, BAD),),
            width=6,
        ),
    )
    row(
        it,
        "Does anybody take too much?",
        lines(
            "Memory held by requests",
            "Bodies, what is made of them, and answers not yet read; beyond the limit, requests are refused with 503.",
            {
                "{{instance}}": "danmaku_held_bytes{GATEWAYS}",
                "limit": "min(danmaku_held_limit_bytes{GATEWAYS})",
            },
            BYTES,
        ),
        lines(
            "Memory refused to requests",
            "Bytes a second that requests needed beyond the limit.",
            {"{{instance}}": "rate(danmaku_refused_bytes_total{GATEWAYS}[RATE])"},
            BYTES,
        ),
        lines(
            "Connections",
            "Those that are open, and those that were closed for others, by what they did.",
            {
                "{{instance}}": "danmaku_connections{GATEWAYS}",
                "limit": "min(danmaku_connections_limit{GATEWAYS})",
                "closed {{stage}}": "sum by (stage) (increase(danmaku_connections_dropped_total{GATEWAYS}[RATE]))",
            },
            COUNT,
        ),
    )
    return row(
        it,
        "Which model is it?",
        facts(
            "Models",
            "What each gateway serves. Vectors of one fingerprint can be compared with one another.",
            ("danmaku_model_info{GATEWAYS}",),
            width=14,
        ),
        facts("Versions", "Of this software, and of Python.", ("danmaku_build_info{GATEWAYS}",), width=10),
    )


def _budget(title: str, description: str, expression: str) -> timeseries.Panel:
    windows = {"5 minutes": "5m", "1 hour": "1h", "6 hours": "6h", "3 days": "3d"}
    expressions = {name: expression.format(window) for name, window in windows.items()}
    return lines(title, description, expressions, COUNT, ((1, WARNING), (14.4, BAD)), width=12)
