"""Real classes that record their calls, in place of a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np

from service.encoders.model import Model, Prepared
from service.errors import ModelGone


class RecordingEncoder:
    """An Encoder without a model: a text's vector is [its length, the sum of its code points].

    `calls` holds the texts of every call. While `gate` is cleared, calls wait. If `failure` is set, they raise it;
    so do calls with a text in `failing`, and with one prepared for another `model` than it has by then.
    A text of `?` alone cannot be spelled; texts over `limit` characters are truncated.
    """

    dim = 2
    concurrency = 1
    batch_tokens = None
    obstacle = None
    workers = ()

    def __init__(self) -> None:
        self.model = Model("recording", "f0", self.dim, 10, (-2,), "REDUCE_MEAN", reader=self)
        self.calls: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.failing: set[str] = set()
        self.running = self.most_running = 0
        self.limit = 8

    def normalize(self, text: str) -> str:
        return text.strip().lower()

    def prepare_normalized(self, texts: Sequence[str]) -> list[Prepared]:
        return [
            Prepared(
                text,
                [1, *map(ord, text[: self.limit]), 2],
                is_truncated=len(text) > self.limit,
                is_spelled=text != "?",
                fingerprint=self.model.fingerprint,
            )
            for text in texts
        ]

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        self.calls.append([prepared.text for prepared in batch])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        if self.failure:
            raise self.failure
        if any(prepared.fingerprint != self.model.fingerprint for prepared in batch):
            raise ModelGone("another one has taken over")
        if self.failing & {prepared.text for prepared in batch}:
            raise RuntimeError("broken")
        return np.array([self.vector(prepared.text) for prepared in batch], np.float32)

    @staticmethod
    def vector(text: str) -> list[float]:
        return [float(len(text)), float(sum(map(ord, text)))]

    async def until_called(self, times: int = 1) -> None:
        """Waits for this number of calls."""
        for _ in range(30_000):
            if len(self.calls) >= times:
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"asked {len(self.calls)} times, not {times}")

    async def aclose(self) -> None: ...


@asynccontextmanager
async def fake_redis(answer_mget: Callable[[int], bytes]) -> AsyncIterator[str]:
    """The URL of a server that accepts every command, and answers MGET of that many keys with bytes of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                parts = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    parts.append((await reader.readexactly(size + 2))[:-2])
                writer.write(answer_mget(len(parts) - 1) if parts[0].upper() == b"MGET" else b"+OK\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass  # the gateway has hung up
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
