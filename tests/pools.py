"""Pools of workers, a gateway's parts in front of them, and callers that keep them busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from peers import ScriptedWorker
from processes import RunningWorker

from service.cache.memory import MemoryCache
from service.embedder import Embedder
from service.encoders.base import Encoder
from service.encoders.open import EncoderSettings, open_encoder
from service.encoders.remote import RemoteEncoder
from service.metrics import Metrics

Worker = RunningWorker | ScriptedWorker
LOAD = [f"{first}{second}" for first in "草哈阿夸晚安好来" for second in "了我死谁你他她的"]


@asynccontextmanager
async def pool(
    *workers: Worker, metrics: Metrics | None = None, slow_s: float = 2.0, timeout_s: float = 30.0
) -> AsyncIterator[RemoteEncoder]:
    """Opens an encoder over all of the workers once they are ready."""
    encoder = await RemoteEncoder.open(url_of(*workers), metrics or Metrics(), slow_s=slow_s, timeout_s=timeout_s)
    try:
        await until(lambda: ready(encoder) == len(workers))
        yield encoder
    finally:
        await encoder.aclose()


@asynccontextmanager
async def gateway(encoder: RemoteEncoder) -> AsyncIterator[Embedder]:
    """Opens everything between the routes and the encoder; nothing is answered from the cache."""
    metrics = Metrics()
    cache = MemoryCache(0, metrics)
    async with Embedder(encoder, cache, metrics, max_batch_tokens=100, max_queue_texts=10_000) as embedder:
        yield embedder


def url_of(*workers: Worker) -> str:
    return "bert://" + ",".join(worker.url.removeprefix("bert://") for worker in workers)


def ready(encoder: RemoteEncoder) -> int:
    return sum(bool(worker["ready"]) for worker in encoder.workers)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited in vain")


async def until_more(answered: list[str]) -> None:
    """Waits until the callers have received some more answers."""
    enough = len(answered) + 50
    await until(lambda: len(answered) > enough)


async def encode(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    reader = encoder.model.reader
    return await encoder.encode(reader.prepare_normalized([reader.normalize(text) for text in texts]))


@asynccontextmanager
async def under_load(embedder: Embedder, expected: dict[str, np.ndarray]) -> AsyncIterator[list[str]]:
    """Runs eight callers that send one request after the other; compares every answer with its model's vectors."""
    answered: list[str] = []  # the fingerprint of each
    stop = asyncio.Event()

    async def ask(caller: int) -> None:
        number = caller
        while not stop.is_set():
            number = (number + 5) % (len(LOAD) - 4)
            embeddings = await embedder.embed(LOAD[number : number + 4])
            rows = expected[embeddings.model.fingerprint][number : number + 4]
            np.testing.assert_allclose(embeddings.vectors, rows, atol=1e-5)
            answered.append(embeddings.model.fingerprint)

    async with asyncio.TaskGroup() as group:
        for caller in range(8):
            group.create_task(ask(caller))
        try:
            yield answered
        finally:
            stop.set()


async def expected_of(model_dir: Path, layer: int = -2) -> dict[str, np.ndarray]:
    """Encodes in this process what `under_load` sends; returns the vectors by fingerprint."""
    encoder = await open_encoder(f"onnx://{model_dir}", EncoderSettings((layer,)), Metrics())
    vectors = await encode(encoder, LOAD)
    await encoder.aclose()
    return {encoder.model.fingerprint: vectors}
