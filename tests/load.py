"""A steady load on a gateway that compares every response with the model's vectors.

Requests are due at fixed times, however earlier ones went. Each ends in one of three ways:

    right      200 with exactly the vectors of the model whose fingerprint it names
    refused    429, 503 or 504 with an error object, or no connection to a gateway that has ended
    failed     everything else: wrong vectors, another status, a broken connection
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from conftest import CHARACTERS
from stored import until

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions

REFUSALS = (429, 503, 504)
TOLERANCE = 1e-5


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Returns distinct danmaku of the tiny model's characters."""
    values = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts["".join(values.choices(CHARACTERS, k=values.randint(2, 8)))] = None
    return list(texts)


Expected = Mapping[str, Mapping[str, np.ndarray]]  # fingerprint → text → vector [dim]


def expected_vectors(model: Path, texts: Sequence[str], *options: EncoderOptions) -> Expected:
    """Returns the vectors of one or more encoders over the model."""
    expected = {}
    for each in options or (EncoderOptions(),):
        with closing(OnnxEncoder.open(model, each, threads=1)) as encoder:
            vectors = encoder.encode_now(encoder.inputs.prepare_texts(texts))
            expected[encoder.model.fingerprint] = dict(zip(texts, vectors, strict=True))
    return expected


@dataclass
class Tally:
    right: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    fingerprints: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)  # seconds, of those that were right

    def __str__(self) -> str:
        slowest = f", the slowest after {max(self.waits) * 1000:.0f} ms" if self.waits else ""
        return f"{self.right} right{slowest}; {sum(self.refused.values())} refused {dict(self.refused)}; " + (
            f"{len(self.failed)} failed, such as {self.failed[:3]}" if self.failed else "0 failed"
        )


class SteadyLoad:
    """An async context manager that sends `rate` requests a second; `tally` is complete on exit."""

    def __init__(
        self,
        url: str,
        expected: Expected,
        *,
        rate: float = 50,
        texts_a_request: int = 4,
        keep_alive: bool = True,
        timeout_ms: int = 30_000,
    ) -> None:
        self.tally = Tally()
        self._expected = expected
        self._texts = list(next(iter(expected.values())))
        self._rate, self._texts_a_request = rate, texts_a_request
        self._headers = {"X-Timeout-Ms": str(timeout_ms)} | ({} if keep_alive else {"Connection": "close"})
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None if keep_alive else 0)
        self._http = httpx.AsyncClient(base_url=url, limits=limits, timeout=60)
        self._random = random.Random(1)

    async def __aenter__(self) -> SteadyLoad:
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sending.cancel()
        await asyncio.wait([self._sending])
        if self._asked:
            await asyncio.wait(self._asked)
        await self._http.aclose()

    async def answer(self, count: int = 50) -> None:
        """Waits until so many more answers were right."""
        enough = self.tally.right + count
        await until(lambda: self.tally.right >= enough)

    async def _send(self) -> None:
        self._asked: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(self._random.choices(self._texts, k=self._texts_a_request)))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            due += 1 / self._rate

    async def _ask(self, texts: Sequence[str]) -> None:
        started = time.monotonic()
        try:
            answer = await self._http.post("/embed", json=texts, headers=self._headers)
        except httpx.ConnectError:
            self.tally.refused["no connection"] += 1
            return
        except httpx.HTTPError as error:
            self.tally.failed.append(f"{type(error).__name__} after {time.monotonic() - started:.2f} s: {error}")
            return
        self._judge(texts, answer, time.monotonic() - started)

    def _judge(self, texts: Sequence[str], answer: httpx.Response, waited: float) -> None:
        body = answer.json()
        if answer.status_code in REFUSALS and "error_type" in body:
            self.tally.refused[body["error_type"]] += 1
        elif answer.status_code != 200:
            self.tally.failed.append(f"{answer.status_code} {answer.text[:100]}")
        elif (known := self._expected.get(body["fingerprint"])) is None:
            self.tally.failed.append(f"an unknown model {body['fingerprint']}")
        elif not np.allclose(body["embeddings"], [known[text] for text in texts], rtol=0, atol=TOLERANCE):
            self.tally.failed.append(f"wrong vectors for {texts}")
        else:
            self.tally.right += 1
            self.tally.fingerprints[body["fingerprint"]] += 1
            self.tally.waits.append(waited)
