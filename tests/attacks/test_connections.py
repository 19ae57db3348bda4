"""A thousand connections without a request shut nobody out, and probes have a port of their own."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import httpx
import pytest
import uvicorn
from processes import ROOT, free_ports, wait_until_ready
from starlette.types import Receive, Scope, Send

from service.connections import Connections, Stage
from service.metrics import Metrics
from service.server import Connection

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"


class Fake:
    """A connection that records that it was closed."""

    def __init__(self) -> None:
        self.is_dropped = False

    def drop(self) -> None:
        self.is_dropped = True


def test_the_oldest_idle_connection_is_closed_for_a_new_one(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    opened, (first, second, third, fourth) = Connections(3, metrics), [Fake() for _ in range(4)]
    assert all(opened.admit(each) for each in (first, second, third))
    opened.move(first, Stage.ANSWERING)
    opened.move(first, Stage.IDLE)  # now younger than the others

    assert opened.admit(fourth)
    assert [each.is_dropped for each in (first, second, third, fourth)] == [False, True, False, False]
    assert len(opened) == 3
    assert "All 3 connections are in use (3 idle" in caplog.text
    assert b'danmaku_connections_dropped_total{stage="idle"} 1.0' in metrics.text()


def test_then_the_oldest_whose_request_is_not_whole(metrics: Metrics) -> None:
    opened, (first, second, third) = Connections(2, metrics), [Fake() for _ in range(3)]
    assert opened.admit(first) and opened.admit(second)
    for each in (second, first):
        opened.move(each, Stage.RECEIVING)

    assert opened.admit(third)
    assert (first.is_dropped, second.is_dropped) == (False, True)


def test_one_that_is_answered_never(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    opened, (first, second) = Connections(1, metrics), [Fake() for _ in range(2)]
    assert opened.admit(first)
    opened.move(first, Stage.ANSWERING)
    caplog.set_level(logging.WARNING)

    for _ in range(100):
        assert not opened.admit(second)
    assert not first.is_dropped
    assert len(caplog.messages) == 1  # not one for each
    opened.remove(first)
    assert opened.admit(second)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def listening(limit: int) -> AsyncIterator[tuple[int, Connections]]:
    config = uvicorn.Config(answer, log_config=None, access_log=False, interface="asgi3")
    config.load()
    state, opened = uvicorn.server.ServerState(), Connections(limit, Metrics())
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config, state, {}, head_timeout_s=30, connections_open=opened), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1], opened
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0.05)


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(REQUEST)
        return await asyncio.wait_for(reader.readline(), 30)
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"", REQUEST, HALF, b"GET / HT"], ids=["nothing", "a request", "half", "half a head"])
async def test_newcomers_are_answered_however_many_wait(sent: bytes) -> None:
    with ExitStack() as stack:
        async with listening(20) as (port, opened):
            for _ in range(60):
                held = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                held.sendall(sent)
                await asyncio.sleep(0.002)
            for _ in range(5):
                assert await ask(port) == b"HTTP/1.1 200 OK\r\n"
            assert len(opened) <= 20


def test_probes_are_answered_while_a_gateway_has_no_descriptor_left() -> None:
    """A real process with 256 descriptors, against 600 connections that keep alive after a request."""
    port, ops_port = free_ports(2)
    command = f"ulimit -n 256 && exec {sys.executable} -m service serve --port {port} --ops-port {ops_port}"
    process = subprocess.Popen(["bash", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{ops_port}", timeout=60) as client:
            wait_until_ready(client, process)
        with ExitStack() as stack:
            for _ in range(600):
                held = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                held.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for base in (port, ops_port):
                for _ in range(20):
                    assert httpx.get(f"http://127.0.0.1:{base}/readyz", timeout=60).status_code == 200
            metrics = httpx.get(f"http://127.0.0.1:{ops_port}/metrics", timeout=60).text
            assert "danmaku_connections_limit 128.0" in metrics
            assert httpx.get(f"http://127.0.0.1:{ops_port}/info", timeout=60).status_code == 404
    finally:
        process.terminate()
        stderr = process.communicate(timeout=60)[1]
    assert "All 128 connections are in use" in stderr
