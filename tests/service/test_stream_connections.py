"""NDJSON through POST /embed over real connections: unknown lengths, back-pressure, and clients that disconnect or
stall.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import pytest
from processes import serving

T = TypeVar("T")
LINES = int(os.environ.get("STREAM_LINES", "100000"))


def line_of(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


@dataclass
class Connection:
    """A client that reads and writes at the same time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent_lines: int = 0

    async def send(self, lines: Iterable[str]) -> None:
        batch: list[str] = []
        for line in lines:
            batch.append(line)
            if len(batch) == 500:
                await self._chunk(batch)
                batch = []
        await self._chunk(batch)

    async def _chunk(self, batch: list[str]) -> None:
        if batch:
            data = "".join(batch).encode()
            self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await self.writer.drain()
            self.sent_lines += len(batch)

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def lines(self) -> AsyncIterator[dict[str, object]]:
        """Yields the lines of the response's body, whose chunks may end anywhere."""
        rest = b""
        while size := int(await self.reader.readline(), 16):
            *whole, rest = (rest + (await self.reader.readexactly(size + 2))[:-2]).split(b"\n")
            for line in whole:
                yield json.loads(line)
        assert rest == b""


@asynccontextmanager
async def connected(client: httpx.Client, *headers: str) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    head = ["POST /embed?encoding=base64 HTTP/1.1", "Host: x", "Content-Type: application/x-ndjson", *headers]
    writer.write("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())
    status = await reader.readuntil(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 200 ")
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def texts(count: int, padding: str = "") -> Iterable[str]:
    """Yields distinct texts that the tiny model can spell; `padding` makes both sides send more for each."""
    for number in range(count):
        yield line_of({"text": f"草{number:b}".replace("1", "2").replace("0", "?"), "id": f"{number}{padding}"})


def sample(client: httpx.Client, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


async def steady(value: Callable[[], T]) -> T:
    """Returns the value once it no longer changes."""
    before = None
    while (now := value()) != before:
        before = now
        await asyncio.sleep(1)
    return now


async def test_memory_does_not_grow_with_a_stream(tiny_model: Path) -> None:
    """STREAM_LINES=200000 makes the test thorough."""
    count = LINES
    with serving("--cache-bytes", "100000", model=f"onnx://{tiny_model}") as (client, process):
        memory: list[int] = []
        async with connected(client) as connection:

            async def send() -> None:
                await connection.send(texts(count))
                await connection.end()

            sending = asyncio.create_task(send())
            expected = -1  # the head comes first
            async for line in connection.lines():
                assert line.get("index", -1) == int(line.get("id", -1)) == expected
                assert expected < 0 or line["embedding"]
                expected += 1
                if expected % (LINES // 40) == 0:
                    memory.append(psutil.Process(process.pid).memory_info().rss)
            await sending

    assert expected == count
    assert max(memory[16:]) - max(memory[:16]) < 10 * 2**20


async def test_a_slow_reader_slows_down_the_stream(tiny_model: Path) -> None:
    """The gateway accepts no more than it can answer, and answers all of it in the end."""
    count = 60_000
    with serving("--cache-bytes", "1000000", model=f"onnx://{tiny_model}") as (client, process):
        before = psutil.Process(process.pid).memory_info().rss
        async with connected(client) as connection:
            sending = asyncio.create_task(connection.send(texts(count, "x" * 1000)))
            await steady(lambda: (connection.sent_lines, sample(client, "danmaku_texts_total")))
            sent = connection.sent_lines
            assert 0 < sent < count
            assert sample(client, "danmaku_queue_texts") == 0
            assert psutil.Process(process.pid).memory_info().rss - before < 50 * 2**20
            answered = 0
            async for line in connection.lines():
                answered += "index" in line
                if answered >= sent:
                    break
            sending.cancel()

    assert answered == sent


@pytest.mark.parametrize("is_whole", [True, False])
async def test_work_stops_when_a_client_disconnects(is_whole: bool) -> None:
    """Texts that wait for the encoder leave its queue, whether or not all were sent."""
    with serving("--threads", "1") as (client, process):
        async with connected(client) as connection:
            if is_whole:
                await connection.send(line_of(f"晚安{number} " * 40) for number in range(300))
                await connection.end()
            else:
                sending = asyncio.create_task(connection.send(line_of(f"晚安{n} " * 40) for n in range(100_000)))
            async for line in connection.lines():
                assert "dim" in line
                break
        if not is_whole:
            sending.cancel()
        worked = await steady(lambda: sample(client, "danmaku_batch_texts_sum"))

        assert worked < (300 if is_whole else 5000)
        assert sample(client, "danmaku_queue_texts") == 0
        assert client.post("/embed", json=["草"]).status_code == 200
        process.terminate()
        assert "Traceback" not in process.communicate(timeout=60)[1]


async def test_a_client_that_does_not_read_gets_an_error(tiny_model: Path) -> None:
    """Otherwise both sides would wait for each other forever."""
    with serving(model=f"onnx://{tiny_model}") as (client, _):
        async with connected(client, "X-Timeout-Ms: 1000") as connection:
            await connection.send(texts(30_000, "x" * 1000))
            await connection.end()
            lines = [line async for line in connection.lines()]

    assert 0 < len(lines) < 30_000
    assert lines[-1]["error_type"] == "stalled" and "while you send" in lines[-1]["error"]
    assert [line["index"] for line in lines[1:-1]] == list(range(len(lines) - 2))


async def test_a_client_that_stops_sending_gets_an_error(tiny_model: Path) -> None:
    """Earlier lines are answered."""
    with serving("--receive-timeout-s", "1", model=f"onnx://{tiny_model}") as (client, _):
        async with connected(client) as connection:
            await connection.send(texts(3))
            lines = [line async for line in connection.lines()]

    assert [line.get("index") for line in lines] == [None, 0, 1, 2, None]
    assert lines[-1]["error_type"] == "body_timeout"
