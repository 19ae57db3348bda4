"""Load on a gateway, and what came of it: for `danmaku bench`.

Closed loop: so many callers, each of whom asks again when answered. Such callers wait politely while a gateway stalls,
so the stall is seen once and not by all who would have come meanwhile (coordinated omission). Open loop: requests are
due at a rate, answered or not, and a request's time is counted from when it was due. Nobody tries again: a refusal is a
result.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from danmaku_client.requests import GRACE_S, timeout_header
from danmaku_client.responses import error_of

MAX_CONNECTIONS = 500  # below the usual limit of 1,024 open files


@dataclass(frozen=True)
class Request:
    body: bytes
    texts: int


@dataclass
class Result:
    """What came of all requests. Times are in seconds."""

    seconds: list[float] = field(default_factory=list)  # of each request that was answered 200
    late: list[float] = field(default_factory=list)  # open loop: how long after it was due each request was begun
    texts: int = 0  # that were answered
    errors: Counter[str] = field(default_factory=Counter)  # requests by error_type
    refused: int = 0  # of those: 429 and 503, which say when to come back
    most_in_flight: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0  # of this process

    @property
    def requests(self) -> int:
        return len(self.seconds) + sum(self.errors.values())


class Load:
    """Within `open_load`; one of `at_concurrency` and `at_rate` is called once. `result` can be read meanwhile."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> None:
        self._session, self._url, self._timeout_s = session, url, timeout_s
        self._in_flight = 0
        self._is_over = False
        self.result = Result()

    def stop(self) -> None:
        """No more requests; those in flight are waited for."""
        self._is_over = True

    async def at_concurrency(self, requests: Iterator[Request], callers: int) -> None:
        async def call() -> None:
            while not self._is_over and (request := next(requests, None)):
                await self._ask(request, time.perf_counter())

        await self._timed(asyncio.gather(*[call() for _ in range(callers)]))

    async def at_rate(self, requests: Iterator[Request], per_second: float) -> None:
        async def come() -> None:
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for number, request in enumerate(requests):
                    due = began + number / per_second
                    # At least once a turn: without it, a generator that is behind would send and never read an answer.
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    if self._is_over:
                        break
                    self.result.late.append(max(0.0, time.perf_counter() - due))
                    group.create_task(self._ask(request, due))

        await self._timed(come())

    async def _timed(self, work: Coroutine[Any, Any, None] | asyncio.Future[Any]) -> None:
        began, cpu = time.perf_counter(), time.process_time()
        try:
            await work
        finally:
            self.result.elapsed_s = time.perf_counter() - began
            self.result.cpu_s = time.process_time() - cpu

    async def _ask(self, request: Request, due: float) -> None:
        result = self.result
        self._in_flight += 1
        result.most_in_flight = max(result.most_in_flight, self._in_flight)
        try:
            left_s = self._timeout_s - (time.perf_counter() - due)
            if left_s <= 0:
                raise TimeoutError
            headers = {"Content-Type": "application/json", **timeout_header(left_s)}
            timeout = aiohttp.ClientTimeout(total=left_s + GRACE_S)
            async with self._session.post(self._url, data=request.body, headers=headers, timeout=timeout) as answer:
                content = await answer.read()
            if answer.status == 200:
                result.seconds.append(time.perf_counter() - due)
                result.texts += request.texts
            else:
                result.errors[error_of(answer.status, answer.headers, content).error_type] += 1
                result.refused += answer.status in (429, 503)
        except TimeoutError:
            result.errors["out_of_time"] += 1
        except aiohttp.ClientError:
            result.errors["unreachable"] += 1
        finally:
            self._in_flight -= 1


@asynccontextmanager
async def open_load(url: str, api_key: str | None, timeout_s: float) -> AsyncIterator[Load]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        yield Load(session, f"{url.rstrip('/')}/embed", timeout_s)
