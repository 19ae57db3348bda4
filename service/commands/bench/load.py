"""The load generator of `danmaku bench`.

Closed loop: a fixed number of callers, each of which sends its next request after the last response. Such callers wait
while a gateway stalls, so a stall is measured once instead of by every request that would have arrived meanwhile
(coordinated omission). Open loop: requests are due at a fixed rate, answered or not, and latency counts from the due
time. Requests are not retried: a refusal is a result.
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
from danmaku_client.responses import read_error

MAX_CONNECTIONS = 500  # below the usual limit of 1,024 open files


@dataclass(frozen=True)
class Request:
    body: bytes
    texts: int


@dataclass
class Result:
    """Counts and times, in seconds, of all requests."""

    seconds: list[float] = field(default_factory=list)  # latency of each request that was answered 200
    late: list[float] = field(default_factory=list)  # open loop: delay of each request's start after its due time
    texts: int = 0  # in answered requests
    errors: Counter[str] = field(default_factory=Counter)  # requests by error_type
    refused: int = 0  # of those: 429 and 503, which come with Retry-After
    most_in_flight: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0  # of this process

    @property
    def requests(self) -> int:
        return len(self.seconds) + sum(self.errors.values())


class Load:
    """Made by `open_load`. Call `run_closed_loop` or `run_open_loop` once; `result` may be read meanwhile."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> None:
        self._session, self._url, self._timeout_s = session, url, timeout_s
        self._in_flight = 0
        self._is_over = False
        self.result = Result()

    def stop(self) -> None:
        """Starts no more requests; those in flight are still awaited."""
        self._is_over = True

    async def run_closed_loop(self, requests: Iterator[Request], callers: int) -> None:
        async def call() -> None:
            while not self._is_over and (request := next(requests, None)):
                await self._send(request, time.perf_counter())

        await self._measure(asyncio.gather(*[call() for _ in range(callers)]))

    async def run_open_loop(self, requests: Iterator[Request], per_second: float) -> None:
        async def start_requests() -> None:
            start = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for number, request in enumerate(requests):
                    due = start + number / per_second
                    # Sleeps even for 0 s: a generator that is behind would otherwise send and never read a response.
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    if self._is_over:
                        break
                    self.result.late.append(max(0.0, time.perf_counter() - due))
                    group.create_task(self._send(request, due))

        await self._measure(start_requests())

    async def _measure(self, work: Coroutine[Any, Any, None] | asyncio.Future[Any]) -> None:
        start, cpu = time.perf_counter(), time.process_time()
        try:
            await work
        finally:
            self.result.elapsed_s = time.perf_counter() - start
            self.result.cpu_s = time.process_time() - cpu

    async def _send(self, request: Request, due: float) -> None:
        result = self.result
        self._in_flight += 1
        result.most_in_flight = max(result.most_in_flight, self._in_flight)
        try:
            left_s = self._timeout_s - (time.perf_counter() - due)
            if left_s <= 0:
                raise TimeoutError
            headers = {"Content-Type": "application/json", **timeout_header(left_s)}
            timeout = aiohttp.ClientTimeout(total=left_s + GRACE_S)
            async with self._session.post(self._url, data=request.body, headers=headers, timeout=timeout) as response:
                content = await response.read()
            if response.status == 200:
                result.seconds.append(time.perf_counter() - due)
                result.texts += request.texts
            else:
                result.errors[read_error(response.status, response.headers, content).error_type] += 1
                result.refused += response.status in (429, 503)

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
