"""The workers' page: what gateways see of them, how they do, what fills up. Numbers are of all workers chosen at
the top, or of each; what gateways see is of all gateways.
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
            "Looked for, and ready; of the gateway that sees fewest. The difference is lost, or not up yet.",
            {"looked for": "max(danmaku_workers_known)", "ready": "min(danmaku_workers_ready)"},
            COUNT,
        ),
        lines(
            "Models among ready workers",
            "More than one while a model is rolled out. Every answer is of one all the same, which it names.",
            {"{{instance}}": "danmaku_worker_fingerprints"},
            COUNT,
            ((2, WARNING),),
        ),
        percentiles(
            "Round trip",
            "Of the question whether a worker is there, which does not queue up behind texts.",
            "danmaku_worker_ping_seconds_bucket",
            ((0.1, WARNING), (1, BAD)),
        ),
        lines(
            "Batches given to a second worker",
            "Since the first was lost, failed, or took more than two seconds.",
            {"{{reason}}": "sum by (reason) (rate(danmaku_calls_retried_total[RATE]))"},
            PER_SECOND,
            ((0.1, WARNING), (1, BAD)),
            width=12,
        ),
        percentiles(
            "Batches, as gateways see them",
            "From sending a batch to having its vectors: the worker's own time, its queue and the way.",
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
            "Texts a second that a worker is asked for.",
            {"{{instance}}": "rate(danmaku_worker_texts_total{WORKERS}[RATE])"},
            PER_SECOND,
            stacked=True,
        ),
        lines(
            "Requests by outcome",
            "Those that are invalid are the callers' doing; unclaimed: nobody listened to the answer.",
            {"{{outcome}}": "sum by (outcome) (rate(danmaku_worker_requests_total{WORKERS}[RATE]))"},
            REQUESTS_PER_SECOND,
            stacked=True,
        ),
        lines(
            "Clients",
            "That sent texts within three minutes, gateways among them.",
            {"{{instance}}": "danmaku_worker_active_clients{WORKERS}"},
            COUNT,
        ),
        percentiles(
            "Requests",
            "From a request's arrival to its answer.",
            "danmaku_worker_request_seconds_bucket{WORKERS}",
            ((0.25, WARNING), (1, BAD)),
        ),
        heat(
            "Model calls, heat map",
            "How many calls took how long.",
            "danmaku_worker_encode_seconds_bucket{WORKERS}",
            ((0.25, WARNING),),
        ),
        percentiles(
            "Wait for the model",
            "Of a text. It grows when more comes than can be encoded: add workers.",
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
            "Tokens a second that a worker encodes, padding not counted: the measure of its work.",
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
            "Texts waiting for the model, and in it. A worker refuses none.",
            {
                "{{instance}}": "danmaku_worker_queue_texts{WORKERS}",
                "{{instance}}, in the model": "danmaku_worker_in_flight_texts{WORKERS}",
            },
            COUNT,
        ),
        lines(
            "Memory of requests",
            "Share of the memory for requests in progress that is taken. At 100 % no more is read, and clients wait.",
            {"{{instance}}": "danmaku_worker_held_bytes{WORKERS} / danmaku_worker_held_limit_bytes"},
            SHARE,
            ((0.5, WARNING), (0.8, BAD)),
        ),
        lines(
            "Requests in progress",
            "Read, and not yet answered.",
            {"{{instance}}": "danmaku_worker_requests_in_progress{WORKERS}"},
            COUNT,
        ),
        lines(
            "Batch",
            "Texts of a model call, on average.",
            {
                "{{instance}}": "rate(danmaku_worker_batch_texts_sum{WORKERS}[RATE])"
                " / rate(danmaku_worker_batch_texts_count{WORKERS}[RATE])"
            },
            COUNT,
        ),
        lines(
            "Padding",
            "Share of padding beside the tokens of a call, which only attention and pooling see.",
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
            "Cores in use; near the number that the worker has, it is at its limit.",
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
        facts("Models", "What each worker has loaded.", ("danmaku_worker_model_info{WORKERS}",), width=14),
        facts("Versions", "Of this software, and of Python.", ("danmaku_worker_build_info{WORKERS}",), width=10),
    )
