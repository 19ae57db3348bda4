"""Assembles a worker from its flags, serves, and closes in reverse."""

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

from service.batcher import Batcher
from service.encoders.onnx import OnnxEncoder
from service.errors import ConfigurationError
from service.event_loop import handle_signal
from service.metrics import WorkerMetrics
from service.status import Status
from service.tasks import run_until_first
from service.worker.flags import DEFAULT_CKPT_NAME, encoder_options, faults, shown_flags, without_effect
from service.worker.http import create_exporter, create_http
from service.worker.server import Worker

log = logging.getLogger("danmaku")

MAX_BATCH_TOKENS = 512  # of a model call: more is no quicker, and whoever is in a hurry waits for its end
HTTP_SHUTDOWN_TIMEOUT_S = 20
NO_LIMIT = 2**62  # the worker bounds what it holds by memory, and lets nobody wait in vain


async def run(flags: argparse.Namespace) -> int:
    """Serves until SIGTERM, SIGINT or a TERMINATION that is allowed. Raises ConfigurationError."""
    if wrong := faults(flags):
        raise ConfigurationError("; ".join(wrong))
    for name in without_effect(flags):
        log.warning("%s has no effect here: there is neither TensorFlow nor a GPU in this worker.", name)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        handle_signal(number, stop.set)
    encoder = await asyncio.to_thread(_open, flags)
    with contextlib.closing(encoder):
        await encoder.encode(encoder.inputs.of_texts(["warm up"]))  # the first call allocates
        metrics = WorkerMetrics()
        metrics.show_model(encoder.model.name, encoder.model.fingerprint, encoder.model.dim)
        batcher: Batcher[np.ndarray] = Batcher(
            encoder.encode,
            concurrency=lambda: encoder.concurrency,
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_batch_size=flags.max_batch_size,
            max_queue_texts=NO_LIMIT,
            priority_batch_size=flags.priority_batch_size,
            metrics=metrics,
        )
        model = {"model": encoder.model.name, "fingerprint": encoder.model.fingerprint, "dim": encoder.model.dim}
        worker = Worker(
            encoder,
            batcher,
            Status(shown_flags(flags), model),
            metrics,
            bind=flags.bind,
            port=flags.port,
            port_out=flags.port_out,
            show_tokens=flags.show_tokens_to_client,
            fixed_embed_length=flags.fixed_embed_length,
            allow_terminate=flags.allow_terminate,
        )
        try:
            async with batcher, worker, contextlib.AsyncExitStack() as stack:
                if flags.http_port:
                    http = create_http(worker, max_connect=flags.http_max_connect, cors=flags.cors)
                    await stack.enter_async_context(_serving(http, flags.bind, flags.http_port, "HTTP"))
                if flags.metrics_port:
                    exporter = create_exporter(metrics)
                    await stack.enter_async_context(_serving(exporter, flags.bind, flags.metrics_port, "metrics"))
                log.info("all set, ready to serve request!")  # in the genuine words, which scripts wait for
                await run_until_first(stop.wait(), worker.ended())
                log.info("ending; %d requests are in progress", worker.in_progress)
        except zmq.ZMQError as error:
            raise ConfigurationError(f"{flags.bind} ports {flags.port} and {flags.port_out}: {error}") from None
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
    )


@contextlib.asynccontextmanager
async def _serving(app: Starlette, bind: str, port: int, what: str) -> AsyncIterator[None]:
    host = "0.0.0.0" if bind == "*" else bind
    config = uvicorn.Config(app, lifespan="off", log_level="warning", timeout_graceful_shutdown=HTTP_SHUTDOWN_TIMEOUT_S)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # they are the worker's
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise ConfigurationError(f"{host} port {port} for {what}: {error.strerror}") from None
    task = asyncio.create_task(server.serve([listening]), name=what)
    try:
        yield
    finally:
        server.should_exit = True
        await task
