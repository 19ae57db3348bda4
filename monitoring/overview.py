"""The overview answers an operator's questions from top to bottom: are users served, what do they request, how long do
they wait, what fills up, what does the cache do, which model is it. Numbers cover all gateways chosen at the top.
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
            "Gateways that answer /readyz with 200. With none, no client is served.",
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
            "HTTP requests per second, without health checks and Prometheus.",
            "sum(rate(danmaku_requests_total{USERS}[RATE]))",
            REQUESTS_PER_SECOND,
            (),
        ),
        number(
            "Cache hits",
            "Share of the look-ups that were answered from memory or Redis. It falls when the model changes and when "
            "Redis is unavailable.",
            f'sum(rate(danmaku_cache_lookups_total{{result="hit", GATEWAYS}}[RATE])) / {LOOK_UPS}',
            SHARE,
            ((0, WARNING), (0.1, GOOD)),
        ),
        number(
            "Models",
            "Fingerprints that gateways serve. More than one means that a change of model is in progress or stuck.",
            "count(count by (fingerprint) (danmaku_model_info{GATEWAYS}))",
            COUNT,
            ((2, WARNING),),
        ),
        _budget(
            "Budget spent: availability",
            "How much faster than allowed the error budget of 30 days is spent. At 1 it just lasts; 14.4 for an "
            "hour pages.",
            "danmaku:unanswered:ratio_rate{} / 0.001",
        ),
        _budget(
            "Budget spent: latency",
            "The same for requests for vectors that took more than 250 ms; the budget is 1 %.",
            "danmaku:slow:ratio_rate{} / 0.01",
        ),
    )
    row(
        it,
        "What do chats ask?",
        lines(
            "Requests about chats by route",
            "Lines observed, topics, merging, highlights and overlays. A stream counts once, when it ends.",
            {"{{route}}": "sum by (route) (rate(danmaku_requests_total{CHATS}[RATE])) > 0 or on () vector(0)"},
            REQUESTS_PER_SECOND,
            stacked=True,
        ),
        lines(
            "Time of requests about chats by route, p99",
            "From the request's head to the end of its answer. A bot waits for observe; highlights take seconds.",
            {
                "{{route}}": "histogram_quantile(0.99, sum by (le, route) (rate("
                'danmaku_request_seconds_bucket{CHATS, route!~".*stream"}[RATE]))) > 0 or on () vector(0)'
            },
            SECONDS,
        ),
        lines(
            "Requests about chats that were not answered, by route",
            "Refused (429, 503), expired (504) or failed.",
            {
                "{{route}}": "sum by (route) (rate("
                'danmaku_requests_total{outcome=~"refused|expired|failed", CHATS}[RATE])) > 0 or on () vector(0)'
            },
            REQUESTS_PER_SECOND,
            ((0.1, WARNING), (1, BAD)),
        ),
    )
    row(
        it,
        "What do clients request?",
        lines(
            "Requests by route",
            "Without health checks and Prometheus. A stream counts once, when it ends.",
            {"{{route}}": "sum by (route) (rate(danmaku_requests_total{USERS}[RATE])) > 0 or on () vector(0)"},
            REQUESTS_PER_SECOND,
            stacked=True,
        ),
        lines(
            "Requests by outcome",
            "The client causes invalid and gone (it disconnected). The gateway causes refused, expired and failed.",
            {"{{outcome}}": "sum by (outcome) (rate(danmaku_requests_total{USERS}[RATE]))"},
            REQUESTS_PER_SECOND,
            stacked=True,
        ),
        lines(
            "Requests by API key",
            "Of the keys in the settings of the gateways, with those that were refused because of their rate or quota.",
            {"{{key}}": "sum by (key) (rate(danmaku_key_requests_total{GATEWAYS}[RATE])) or on () vector(0)"},
            REQUESTS_PER_SECOND,
            stacked=True,
        ),
        lines(
            "Texts by API key",
            "As they are charged: a request without texts counts as one.",
            {"{{key}}": "sum by (key) (rate(danmaku_key_texts_total{GATEWAYS}[RATE])) or on () vector(0)"},
            PER_SECOND,
            stacked=True,
        ),
        lines(
            "Texts",
            "Texts per second: requested, encoded, refused by a full queue, and expired because nobody waited for "
            "them. Texts that are requested and not encoded come from the cache.",
            {
                "requested": "sum(rate(danmaku_texts_total{GATEWAYS}[RATE]))",
                "encoded": "sum(rate(danmaku_batch_texts_sum{GATEWAYS}[RATE]))",
                "refused": "sum(rate(danmaku_refused_texts_total{GATEWAYS}[RATE]))",
                "expired": "sum(rate(danmaku_expired_texts_total{GATEWAYS}[RATE]))",
            },
            PER_SECOND,
        ),
        lines(
            "Texts without a vector",
            "By reason: blank, not in the vocabulary, or too long. Also texts that were truncated.",
            {
                "{{error_type}}": "sum by (error_type) (rate(danmaku_text_errors_total{GATEWAYS}[RATE]))",
                "truncated": "sum(rate(danmaku_truncated_texts_total{GATEWAYS}[RATE]))",
            },
            PER_SECOND,
        ),
        lines(
            "Collections",
            "Danmaku in all collections of the gateway with the most, because gateways may share a store.",
            {
                "danmaku": "max(danmaku_collection_items{GATEWAYS})",
                "collections": "max(danmaku_collections{GATEWAYS})",
                "damaged danmaku": "max(danmaku_collection_damaged_items{GATEWAYS})",
            },
            COUNT,
        ),
        lines(
            "Memory and disk of collections",
            "Memory and disk of collections, for the gateway with the most.",
            {"bytes": "max(danmaku_collection_bytes{GATEWAYS})"},
            BYTES,
        ),
    )
    row(
        it,
        "How long do they wait?",
        percentiles(
            "Latency of requests for vectors",
            "From the request's head to the response, estimated from the buckets of the heat map. Without streams.",
            BUCKETS,
            ((OBJECTIVE_S, WARNING), (1, BAD)),
        ),
        heat(
            "Latency of requests for vectors, heat map",
            "Number of requests by latency. Two bands are usual: cached texts and encoded texts.",
            BUCKETS,
            ((OBJECTIVE_S, WARNING),),
        ),
        lines(
            "Latency by route, p90",
            "For routes with requests.",
            {
                "{{route}}": "histogram_quantile(0.9, sum by (le, route) "
                "(rate(danmaku_request_seconds_bucket{USERS}[RATE]))) > 0 or on () vector(0)"
            },
            SECONDS,
            ((OBJECTIVE_S, WARNING), (1, BAD)),
        ),
        percentiles(
            "Wait for the encoder",
            "For texts that are not cached. It grows when the load exceeds the encoder, first for long lists.",
            "danmaku_queue_seconds_bucket{GATEWAYS}",
            ((OBJECTIVE_S, WARNING), (1, BAD)),
        ),
        percentiles(
            "Model calls",
            "With workers, from sending a batch to receiving its vectors.",
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
            "Share of the queue in use. From 80 % a gateway is not ready; at 100 % it refuses requests.",
            {"{{instance}}": "danmaku_queue_texts{GATEWAYS} / danmaku_queue_limit_texts"},
            SHARE,
            ((0.5, WARNING), (0.8, BAD)),
        ),
        lines(
            "Cores",
            "Cores that a gateway uses. Everything but model calls uses one core, so a gateway in front of workers "
            "is at its limit near 1: add a second gateway.",
            {
                "{{instance}}": "rate(process_cpu_seconds_total{GATEWAYS}[RATE])"
                " * on (job, instance) group_left danmaku_build_info"
            },
            COUNT,
            ((0.8, WARNING),),
        ),
        lines(
            "Memory",
            "Resident memory of a gateway, and the part used by its cache.",
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
            "Average texts and tokens per model call.",
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
            "Share of padding in a model call. It is low if texts of similar length arrive together.",
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
            "In memory first, then in Redis; skipped while the circuit breaker is open.",
            {"{{tier}} {{result}}": "sum by (tier, result) (rate(danmaku_cache_lookups_total{GATEWAYS}[RATE]))"},
            PER_SECOND,
            width=6,
            stacked=True,
        ),
        lines(
            "Redis errors",
            "By kind; also texts whose vectors were not written. Requests never fail because of it.",
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
            "Texts in a gateway's own cache, which evicts the least recently used.",
            {"{{instance}}": "danmaku_cache_texts{GATEWAYS}"},
            COUNT,
            width=6,
        ),
        lines(
            "Redis circuit breaker",
            "It is 1 while the circuit breaker is open after failures, and Redis is not used.",
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
    row(
        it,
        "What do the heads say?",
        lines(
            "Texts classified",
            "By head, whose name is that of its folder.",
            {"{{head}}": "sum by (head) (rate(danmaku_head_texts_total{GATEWAYS}[RATE]))"},
            PER_SECOND,
            width=12,
        ),
        lines(
            "Changes of heads",
            "Newer heads that were read while the gateway ran; with one that is refused, the older one stays.",
            {"{{head}} {{result}}": "sum by (head, result) (increase(danmaku_head_changes_total{GATEWAYS}[RATE]))"},
            COUNT,
            width=12,
        ),
    )
    return row(
        it,
        "Which model is it?",
        facts(
            "Models",
            "The model of each gateway. Vectors with the same fingerprint can be compared.",
            ("danmaku_model_info{GATEWAYS}",),
            width=14,
        ),
        facts("Versions", "This software and Python.", ("danmaku_build_info{GATEWAYS}",), width=10),
    )


def _budget(title: str, description: str, expression: str) -> timeseries.Panel:
    windows = {"5 minutes": "5m", "1 hour": "1h", "6 hours": "6h", "3 days": "3d"}
    expressions = {name: expression.format(window) for name, window in windows.items()}
    return lines(title, description, expressions, COUNT, ((1, WARNING), (14.4, BAD)), width=12)
