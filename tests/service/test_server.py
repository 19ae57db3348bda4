"""Slow connections end without an effect on others; a shutdown has two steps."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import httpx
import psutil
import pytest
import uvicorn
from pools import until
from processes import serving
from starlette.types import Receive, Scope, Send

from service.connections import Connections
from service.metrics import Metrics
from service.server import MAX_HEAD_BYTES, STUCK_READER_S, Connection

HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of bytes that the path names, or 413 without reading the body."""
    start = {"type": "http.response.start", "headers": [(b"x-whole", b"%d" % bool(scope.get("is_whole")))]}
    if scope["path"] == "/refused":
        await send({**start, "status": 413})
        return await send({"type": "http.response.body"})
    while (await receive()).get("more_body"):
        pass
    await send({**start, "status": 200})
    await send({"type": "http.response.body", "body": b"x" * int(scope["path"][1:] or 0)})


@asynccontextmanager
async def listening(
    head_timeout_s: float = 0.3, stuck_reader_s: float = STUCK_READER_S, max_connections: int = 10_000
) -> AsyncIterator[tuple[int, set[Connection]]]:
    """Serves `echo` with `Connection` in this process; yields the port and the open connections."""
    config = uvicorn.Config(echo, log_config=None, access_log=False, timeout_keep_alive=1, interface="asgi3")
    config.load()
    opened = Connections(max_connections, Metrics())
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(
            config,
            state,
            {},
            head_timeout_s=head_timeout_s,
            connections_open=opened,
            stuck_reader_s=stuck_reader_s,
        ),
        "127.0.0.1",
        0,
    )
    async with server:
        yield server.sockets[0].getsockname()[1], state.connections  # type: ignore[misc]  # uvicorn's own set
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not state.connections)


async def exchange(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Sends the parts; returns everything until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def write() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)

    async def read() -> bytes:
        came = b""
        with suppress(ConnectionResetError):  # it writes on when the server has closed; what came before that counts
            while part := await reader.read(65536):
                came += part
        return came

    writing = asyncio.create_task(write())
    try:
        return await asyncio.wait_for(read(), 60)
    finally:
        writing.cancel()
        writer.close()


def answer(data: bytes) -> tuple[int, object]:
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error_type"] if body else None


async def test_a_head_that_arrives_byte_by_byte_times_out() -> None:
    async with listening() as (port, _):
        slow = [bytes([byte]) for byte in HEAD * 10]
        assert answer(await exchange(port, *slow, pause_s=0.05)) == (408, "head_timeout")


async def test_a_silent_connection_is_closed() -> None:
    async with listening() as (port, _):
        assert await exchange(port) == b""


async def test_empty_lines_do_not_extend_the_deadline() -> None:
    """They may come before the first request or after one."""
    async with listening() as (port, _):
        lines = [b"\r\n"] * 200
        assert await exchange(port, *lines, pause_s=0.02) == b""
        after = await exchange(port, b"GET /3 HTTP/1.1\r\nHost: x\r\n\r\n", *lines, pause_s=0.02)
        assert after.startswith(b"HTTP/1.1 200") and after.count(b"HTTP/1.1") == 1


async def test_a_second_head_has_no_more_time_than_the_first() -> None:
    async with listening() as (port, _):
        slow = [bytes([byte]) for byte in HEAD * 10]
        data = await exchange(port, b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n", *slow, pause_s=0.05)
        assert data.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in data


async def test_the_rest_of_a_refused_body_is_not_read() -> None:
    async with listening() as (port, _):
        head = b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        data = await exchange(port, head, *[b"x"] * 400, pause_s=0.02)
        assert data.count(b"HTTP/1.1") == 1 and data.startswith(b"HTTP/1.1 413")


async def test_an_endless_head_is_refused() -> None:
    """It may be one long header or many."""
    async with listening(head_timeout_s=20) as (port, _):
        for line in (b"x" * 1000, b"X-Header: " + b"x" * 990 + b"\r\n"):
            lines = [HEAD + b"X-First: ", *[line] * (MAX_HEAD_BYTES // 1000 + 1)]
            assert answer(await exchange(port, *lines)) == (431, "head_too_large")


async def test_other_protocols_get_an_error() -> None:
    async with listening() as (port, _):
        assert answer(await exchange(port, b"HELLO\r\n\r\n")) == (400, "malformed_http")


@pytest.mark.parametrize("gap_s", [0.0, 0.1])
async def test_requests_in_time_are_served_on_one_connection(gap_s: float) -> None:
    """Together they may take longer than a head may; the application knows whether the body is complete."""
    async with listening(head_timeout_s=1.0) as (port, _):
        whole = HEAD.replace(b"embed", b"5") + b"Content-Length: 3\r\n\r\nabc"
        parts = [part for _ in range(6) for part in (whole[:-3], whole[-3:], whole)]
        data = await exchange(port, *parts, pause_s=gap_s)
        assert data.count(b"HTTP/1.1 200") == 12
        if gap_s:
            assert (data.count(b"x-whole: 0"), data.count(b"x-whole: 1")) == (6, 6)


async def test_a_response_that_nobody_reads_is_aborted() -> None:
    """A response that is read slowly is not."""
    size = 30_000_000
    async with listening(stuck_reader_s=1.5) as (port, connections):
        request = b"GET /%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size
        stuck = socket.create_connection(("127.0.0.1", port))
        stuck.sendall(request)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
        writer.write(request)
        received = 0
        while part := await reader.read(1_000_000):
            received += len(part)
            await asyncio.sleep(0.01)
        writer.close()
        assert received > size
        await until(lambda: not connections)
        stuck.close()


def test_two_hundred_slow_clients_do_not_affect_others() -> None:
    """They send heads or bodies slowly; others are served, and after the limit the slow ones are gone."""
    with serving("--receive-timeout-s", "3") as (client, process):
        before = psutil.Process(process.pid).num_fds()
        starts = [
            HEAD,
            HEAD + b"Content-Length: 1000\r\n\r\n[",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n",
            b"",
        ]
        slow = [socket.create_connection(("127.0.0.1", client.base_url.port)) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.settimeout(30)
            connection.sendall(starts[number % 4])
        drips = [b"x", b"1", b"1\r\n1\r\n", b"\r\n"]
        open_ones = dict(enumerate(slow))
        answers: dict[int, bytes] = {}
        served = 0
        deadline = time.monotonic() + 30
        while open_ones and time.monotonic() < deadline:
            assert client.post("/embed", json=["草", f"{served}"]).status_code == 200
            served += 1
            for number, connection in list(open_ones.items()):
                try:
                    connection.sendall(drips[number % 4])
                    connection.setblocking(False)
                    answers[number] = answers.get(number, b"") + (data := connection.recv(65536))
                    ended = not data
                except BlockingIOError:
                    ended = False
                except OSError:  # reset, since bytes came after the end
                    ended = True
                connection.settimeout(30)
                if ended:
                    del open_ones[number]
                    connection.close()
            time.sleep(0.2)

        assert not open_ones
        assert served >= 2
        told = [answers[number] for number in answers if number % 4 in (1, 2) and answers[number]]
        assert told and all(data.startswith(b"HTTP/1.1 408") and b'"body_timeout"' in data for data in told)
        assert all(b"x-request-id: " in data for data in told)
        assert psutil.Process(process.pid).num_fds() <= before + 5
        counted = client.get("/metrics").text
        assert 'danmaku_requests_total{outcome="failed",route="/embed"} 0.0' in counted


def test_a_long_body_may_take_longer_than_the_limit() -> None:
    """It may as long as data keeps arriving."""
    with serving("--receive-timeout-s", "2") as (client, _):
        body = json.dumps(["哈" * 40] * 300, ensure_ascii=False).encode()  # 36 kB
        with socket.create_connection(("127.0.0.1", client.base_url.port)) as connection:
            connection.settimeout(30)
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
            for start in range(0, len(body), 3000):
                time.sleep(0.3)
                connection.sendall(body[start : start + 3000])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_draining_gateway_is_not_ready_but_serves() -> None:
    """It accepts new connections and answers; a second signal ends it at once, with status 0."""
    with serving("--drain-s", "600") as (client, process):
        process.send_signal(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            time.sleep(0.02)
        ready = httpx.get(client.base_url.join("/readyz"))
        live = httpx.get(client.base_url.join("/healthz"))
        embedded = httpx.post(client.base_url.join("/embed"), json=["草"])

        assert (ready.status_code, ready.json()["error"]) == (503, "the service is stopping")
        assert "retry-after" in ready.headers
        assert (live.status_code, embedded.status_code) == (200, 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_draining_gateway_ends_when_the_time_is_over() -> None:
    with serving("--drain-s", "1") as (_, process):
        stopped = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert time.monotonic() - stopped >= 1


def test_ctrl_c_ends_it_at_once() -> None:
    with serving("--drain-s", "600") as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_request_that_outlives_the_shutdown_is_told_to_retry() -> None:
    """Like every refusal it is JSON, and the gateway ends with status 0."""
    with serving("--shutdown-timeout-s", "1", "--threads", "1") as (client, process), ThreadPoolExecutor() as pool:
        texts = [f"{number}" + "哈" * 120 for number in range(10_000)]
        asked = pool.submit(httpx.post, client.base_url.join("/embed"), json=texts, timeout=60)
        while "danmaku_in_flight_texts 0.0" in client.get("/metrics").text:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        answer = asked.result()

        assert (answer.status_code, answer.json()["error_type"]) == (503, "encoder_unavailable")
        assert "the service is stopping" in answer.json()["error"]
        assert answer.headers["retry-after"] == "1"
        assert process.wait(60) == 0
