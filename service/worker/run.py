"""Assembles a worker from its flags and runs it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator

import numpy as np
import uvicorn
import zmq
from starlette.applications import Starlette

from service import wire
from service.batcher import Batcher
from service.encoders.onnx import OnnxEncoder
from service.errors import ConfigurationError
from service.event_loop import handle_signal
from service.metrics import WorkerMetrics
from service.status import Status
from service.tasks import run_until_first
from service.worker.flags import (
    DEFAULT_CKPT_NAME,
    choose_device,
    describe_flags,
    encoder_options,
    find_faults,
    ineffective_flags,
)
from service.worker.http_server import create_exporter, create_http
from service.worker.server import Worker

log = logging.getLogger("danmaku")

MAX_BATCH_TOKENS = 512  # per model call: more is not faster, and delays short requests
HTTP_SHUTDOWN_TIMEOUT_S = 20
NO_LIMIT = 2**62  # the worker limits its queue by memory instead


async def serve(flags: argparse.Namespace) -> int:
    """Serves until SIGTERM, SIGINT or an allowed TERMINATION. Raises ConfigurationError."""
    if faults := find_faults(flags):
        raise ConfigurationError("; ".join(faults))
    for name in ineffective_flags(flags):
        log.warning("%s has no effect: this worker uses neither TensorFlow nor, without -device cuda, a GPU.", name)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        handle_signal(number, stop.set)
    encoder = await asyncio.to_thread(_open, flags)
    with contextlib.closing(encoder):
        await encoder.encode(encoder.inputs.prepare_texts(["warm up"]))  # the first call allocates
        model = encoder.model
        metrics = WorkerMetrics()
        metrics.show_model(model.name, model.fingerprint, model.dim)
        batcher: Batcher[np.ndarray] = Batcher(
            encoder.encode,
            concurrency=lambda: encoder.concurrency,
            max_batch_tokens=encoder.batch_tokens or MAX_BATCH_TOKENS,
            max_batch_size=flags.max_batch_size,
            max_queue_texts=NO_LIMIT,
            priority_batch_size=flags.priority_batch_size,
            metrics=metrics,
        )
        identity = {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "dim": model.dim,
            "dimensions": model.dimensions,
        }
        worker = Worker(
            encoder,
            batcher,
            Status(describe_flags(flags, encoder.options), identity),
            metrics,
            bind=flags.bind,
            port=flags.port,
            port_out=flags.port_out,
            show_tokens=flags.show_tokens_to_client,
            fixed_embed_length=flags.fixed_embed_length,
            allow_terminate=flags.allow_terminate,
            key_file=flags.key_file,
        )
        try:
            async with batcher, worker, contextlib.AsyncExitStack() as stack:
                if flags.http_port:
                    http = create_http(worker, max_connect=flags.http_max_connect, cors=flags.cors)
                    await stack.enter_async_context(_serve_http(http, flags.bind, flags.http_port, "HTTP"))
                if flags.metrics_port:
                    exporter = create_exporter(metrics)
                    await stack.enter_async_context(_serve_http(exporter, flags.bind, flags.metrics_port, "metrics"))
                log.info(
                    "serving %s (fingerprint %s) on %s, ports %d and %d; pooling %s of layers %s, max_seq_len %d",
                    *(model.name, model.fingerprint, flags.bind, flags.port, flags.port_out),
                    *(model.pooling_strategy, list(model.pooling_layer), model.max_seq_len),
                )
                if wire.is_loopback(flags.bind):
                    log.info("only programs on this machine can connect; -bind 0.0.0.0 also accepts other machines")
                log.info("all set, ready to serve request!")  # bert-serving-start's words, which scripts wait for
                await run_until_first(stop.wait(), worker.wait_until_ended())
                log.info("stopping; %d requests are in progress", worker.in_progress)
        except zmq.ZMQError as error:
            raise ConfigurationError(
                f"cannot listen on {flags.bind}, ports {flags.port} and {flags.port_out}: {error}"
            ) from None
    return 0


def _open(flags: argparse.Namespace) -> OnnxEncoder:
    directory = flags.tuned_model_dir or flags.model_dir
    ckpt_name = flags.ckpt_name
    if ckpt_name is None and (directory / f"{DEFAULT_CKPT_NAME}.index").exists():
        ckpt_name = DEFAULT_CKPT_NAME
    return OnnxEncoder.open(
        flags.model_dir,
        encoder_options(flags),
        threads=flags.threads,
        concurrency=flags.num_worker,
        tuned_model_dir=flags.tuned_model_dir,
        ckpt_name=ckpt_name,
        config_name=flags.config_name,
        device=choose_device(flags),
    )


@contextlib.asynccontextmanager
async def _serve_http(app: Starlette, bind: str, port: int, purpose: str) -> AsyncIterator[None]:
    host = "0.0.0.0" if bind == "*" else bind
    config = uvicorn.Config(app, lifespan="off", log_level="warning", timeout_graceful_shutdown=HTTP_SHUTDOWN_TIMEOUT_S)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # the worker handles them
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port} for {purpose}: {error.strerror}") from None
    task = asyncio.create_task(server.serve([listening]), name=purpose)
    try:
        yield
    finally:
        server.should_exit = True
        await task
