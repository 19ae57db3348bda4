"""Runs uvicorn with limits for slow connections and a shutdown in two steps.

A client may be slow on purpose. uvicorn limits how long a connection may be idle between requests, but not the time or
size of a request's head, nor how long an answer may wait to be read; `Connection` does. `ReceiveBody` limits the time
of the body, because it can answer as the API does. Nothing here costs a request more than a microsecond: a timer runs
only while something is missing.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.ops import OperationOnly
from service.connections import Connections, Stage, limit_connections
from service.metrics import Metrics
from service.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
MAX_OPERATION_CONNECTIONS = 64
STUCK_READER_S = 60.0
LAST_ANSWERS_S = 1.0  # for those whose requests took longer than the shutdown may
# Longer than clients keep an idle connection (httpx 5 s, aiohttp 15, Go 90), so that the client closes it first and no
# request is lost.
KEEP_ALIVE_S = 120


class Connection(HttpToolsProtocol):
    """A client's connection, which is closed if a head is late or too large, or if answers are not read."""

    def __init__(
        self,
        *arguments: Any,
        head_timeout_s: float,
        connections_open: Connections,
        stuck_reader_s: float = STUCK_READER_S,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self._open = connections_open
        self._head_timeout_s, self._stuck_reader_s = head_timeout_s, stuck_reader_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._head_bytes: int | None = None  # received of the current head; None between heads

    # uvicorn narrows asyncio's BaseTransport in the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._open.admit(self):
            self._wait_for_head()
        else:
            self._refuse(503, "too_many_connections", f"too many connections: expected at most {self._open.limit}")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                message = f"request head too large: expected at most {MAX_HEAD_BYTES} bytes"
                return self._refuse(431, "head_too_large", message)
        # The data is the beginning of a request, or the end of a refused one: either way a head is due.
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._open.move(self, Stage.RECEIVING)

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.scope["is_whole"] = True  # type: ignore[typeddict-unknown-key]  # ours, for `ReceiveBody`
        super().on_message_complete()
        is_answered = self.cycle is None or self.cycle.response_complete  # before its body arrived
        self._open.move(self, Stage.IDLE if is_answered else Stage.ANSWERING)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:  # no other request has come with this one
            self._open.move(self, Stage.IDLE)

    def drop(self) -> None:
        """Closes the connection, without an answer, to make room for another."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.remove(self)
        for timer in (self._head_timer, self._read_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_reader()  # closing waits until everything is read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer and not self.transport.is_closing():  # otherwise the rest must also be read
            self._read_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "malformed_http", "invalid HTTP request")

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_timeout_s, self._expire_head)

    def _expire_head(self) -> None:
        if self._head_bytes is None:  # there is no request to answer
            self.transport.close()
            return self._watch_reader()
        self._refuse(408, "head_timeout", f"request head late: expected within {self._head_timeout_s:g} s")

    def _refuse(self, status: int, error_type: str, error: str) -> None:
        """Answers an incomplete request, which no route or log sees, and closes the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = orjson.dumps({"error": error, "error_type": error_type})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
        self._watch_reader()

    def _watch_reader(self, left_before: int | None = None) -> None:
        """Aborts the connection if no written data is read for `stuck_reader_s`.

        Called when nothing more will be written until it is read.
        """
        left = self.transport.get_write_buffer_size()
        if left_before is not None and left >= left_before:
            return self.transport.abort()
        if self._read_timer:
            self._read_timer.cancel()
        self._read_timer = self.loop.call_later(self._stuck_reader_s, self._watch_reader, left) if left else None


class Server(uvicorn.Server):
    """Stops in two steps: for `drain_s` it announces the stop and keeps serving, and then it stops.

    In the first step load balancers learn from /readyz to send no more requests, while those they still send are
    answered. In the second, only requests in progress are answered. SIGINT or a second signal skips the first.
    """

    def __init__(self, config: uvicorn.Config, *, drain_s: float, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain_s, self._on_stop = drain_s, on_stop
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        if sig == signal.SIGTERM and self._drain_s and self._stop_at is None:
            self._stop_at = time.monotonic() + self._drain_s
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if unfinished := self.server_state.tasks:  # cancelled, which `AnswerErrors` answers
            await asyncio.wait(unfinished, timeout=LAST_ANSWERS_S)

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


class OperationServer(uvicorn.Server):
    """Serves the probes and metrics on a separate port, so that other connections cannot block them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the gateway's own server does


@asynccontextmanager
async def serve_operation(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """Serves the probes and metrics on `ops_port`, if there is one, until the context ends."""
    if settings.ops_port is None:
        yield
        return
    metrics = app.state.danmaku.metrics
    connections = Connections(MAX_OPERATION_CONNECTIONS, metrics)
    server = OperationServer(_configure(OperationOnly(app), settings, settings.ops_port, connections))
    serving = asyncio.create_task(server.serve(), name="probes and metrics")
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def create_server(app: FastAPI, settings: Settings) -> Server:
    metrics: Metrics = app.state.danmaku.metrics
    connections = Connections(limit_connections(settings.max_connections), metrics)
    metrics.connections.set_function(lambda: len(connections))
    metrics.connections_limit.set(connections.limit)
    config = _configure(app, settings, settings.port, connections)
    return Server(config, drain_s=settings.drain_s, on_stop=lambda: setattr(app.state.danmaku, "is_stopping", True))


def _configure(app: ASGIApp, settings: Settings, port: int, connections: Connections) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=port,
        # uvicorn accepts a class or, despite its type, any callable that makes its objects.
        http=partial(  # type: ignore[arg-type]
            Connection, head_timeout_s=settings.receive_timeout_s, connections_open=connections
        ),
        lifespan="off",
        log_config=None,  # see service/log.py
        access_log=False,  # ours also has the id, the number of texts and the outcome
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
