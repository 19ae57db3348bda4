"""The workers' page: what gateways see of them, how they perform, what fills up. Numbers cover all workers chosen at
the top, or each of them; what gateways see covers all gateways.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders

from monitoring.panels import (
    BAD,
    COUNT,
    PER_SECOND,
    REQUESTS_PER_SECOND,
    SHARE,
    WARNING,
    facts,
    heat,
    lines,
    page,
    percentiles,
    row,
)


def workers() -> builders.Dashboard:
    it = page("danmaku-workers", "danmaku: workers", "worker", "danmaku_worker_build_info")
    row(
        it,
        "What do gateways see?",
        lines(
            "Workers",
            "Configured and ready workers, for the gateway that sees the fewest. The rest are lost or starting.",
            {"looked for": "max(danmaku_workers_known)", "ready": "min(danmaku_workers_ready)"},
            COUNT,
        ),
        lines(
            "Models among ready workers",
            "More than one while a model is rolled out. Every response still comes from one model and names it.",
            {"{{instance}}": "danmaku_worker_fingerprints"},
            COUNT,
            ((2, WARNING),),
        ),
        percentiles(
            "Round trip",
            "Round trip of a ping to a worker, which does not wait behind texts.",
            "danmaku_worker_ping_seconds_bucket",
            ((0.1, WARNING), (1, BAD)),
        ),
        lines(
            "Batches given to a second worker",
            "Because the first was lost, failed, or took more than two seconds.",
            {"{{reason}}": "sum by (reason) (rate(danmaku_calls_retried_total[RATE]))"},
            PER_SECOND,
            ((0.1, WARNING), (1, BAD)),
            width=12,
        ),
        percentiles(
            "Batches, as gateways see them",
            "From sending a batch to receiving its vectors: the worker's computation, its queue and the network.",
            "danmaku_encode_seconds_bucket",
            ((0.25, WARNING), (1, BAD)),
            width=12,
        ),
    )
    row(
        it,
        "How do they do?",
        lines(
            "Texts",
            "Texts per second that a worker receives.",
            {"{{instance}}": "rate(danmaku_worker_texts_total{WORKERS}[RATE])"},
            PER_SECOND,
            stacked=True,
        ),
        lines(
            "Requests by outcome",
            "The client causes invalid. In the case of unclaimed nobody subscribed to the answer.",
            {"{{outcome}}": "sum by (outcome) (rate(danmaku_worker_requests_total{WORKERS}[RATE]))"},
            REQUESTS_PER_SECOND,
            stacked=True,
        ),
        lines(
            "Clients",
            "Clients, including gateways, that sent texts within three minutes.",
            {"{{instance}}": "danmaku_worker_active_clients{WORKERS}"},
            COUNT,
        ),
        percentiles(
            "Requests",
            "From the arrival of a request to its answer.",
            "danmaku_worker_request_seconds_bucket{WORKERS}",
            ((0.25, WARNING), (1, BAD)),
        ),
        heat(
            "Model calls, heat map",
            "Number of calls by duration.",
            "danmaku_worker_encode_seconds_bucket{WORKERS}",
            ((0.25, WARNING),),
        ),
        percentiles(
            "Wait for the model",
            "Waiting time of a text. It grows when the load exceeds the workers: add some.",
            "danmaku_worker_queue_seconds_bucket{WORKERS}",
            ((0.25, WARNING), (1, BAD)),
        ),
        percentiles(
            "Model calls",
            "The model alone.",
            "danmaku_worker_encode_seconds_bucket{WORKERS}",
            ((0.25, WARNING), (1, BAD)),
        ),
        lines(
            "Tokens",
            "Tokens per second that a worker encodes, without padding, which measures its work.",
            {"{{instance}}": "rate(danmaku_worker_batch_tokens_total{WORKERS}[RATE])"},
            PER_SECOND,
            stacked=True,
        ),
    )
    row(
        it,
        "What fills up?",
        lines(
            "Queue",
            "Texts that wait for the model, and texts in it.",
            {
                "{{instance}}": "danmaku_worker_queue_texts{WORKERS}",
                "{{instance}}, in the model": "danmaku_worker_in_flight_texts{WORKERS}",
            },
            COUNT,
        ),
        lines(
            "Memory of requests",
            "Share of the memory for requests in progress. At 100 % further requests wait, and some are refused.",
            {"{{instance}}": "danmaku_worker_held_bytes{WORKERS} / danmaku_worker_held_limit_bytes"},
            SHARE,
            ((0.5, WARNING), (0.8, BAD)),
        ),
        lines(
            "Requests in progress",
            "Requests that are read and not yet answered.",
            {"{{instance}}": "danmaku_worker_requests_in_progress{WORKERS}"},
            COUNT,
        ),
        lines(
            "Batch",
            "Average texts per model call.",
            {
                "{{instance}}": "rate(danmaku_worker_batch_texts_sum{WORKERS}[RATE])"
                " / rate(danmaku_worker_batch_texts_count{WORKERS}[RATE])"
            },
            COUNT,
        ),
        lines(
            "Padding",
            "Share of padding in a model call; only attention and pooling process it.",
            {
                "{{instance}}": "rate(danmaku_worker_padding_tokens_total{WORKERS}[RATE])"
                " / (rate(danmaku_worker_padding_tokens_total{WORKERS}[RATE])"
                " + rate(danmaku_worker_batch_tokens_total{WORKERS}[RATE]))"
            },
            SHARE,
            ((0.3, WARNING), (0.6, BAD)),
        ),
        lines(
            "Cores",
            "Cores in use. A worker is at its limit near the number of its cores.",
            {
                "{{instance}}": "rate(process_cpu_seconds_total{WORKERS}[RATE])"
                " * on (job, instance) group_left danmaku_worker_build_info"
            },
            COUNT,
        ),
    )
    return row(
        it,
        "Which model is it?",
        facts("Models", "The model that each worker has loaded.", ("danmaku_worker_model_info{WORKERS}",), width=14),
        facts("Versions", "This software and Python.", ("danmaku_worker_build_info{WORKERS}",), width=10),
    )
