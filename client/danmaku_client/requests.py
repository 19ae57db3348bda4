"""Sends requests to a gateway, with retries until a deadline, and splits lists into parts that it accepts.

A gateway that is overloaded or has no encoder answers with Retry-After, and one that is restarting refuses connections
for a moment: both are worth a retry. Each request tells the gateway how much time is left, so it does not work for a
caller that has given up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import orjson
from aiohttp import ClientTimeout

from danmaku_client.responses import GatewayError, read_error

FIRST_PAUSE_S = 0.1  # before the first retry if the gateway sends no Retry-After; doubled for each further one
MAX_PAUSE_S = 5.0
GRACE_S = 0.5  # for the gateway's own out_of_time response to arrive
MAX_TIMEOUT_MS = 2**31 - 1  # the largest valid X-Timeout-Ms

T = TypeVar("T")


class GatewaySession:
    """A pool of connections to one gateway, opened by the first request. Every method raises GatewayError."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        if self._session:
            await self._session.close()
        self._session = None

    async def request(self, method: str, path: str, content: object, deadline: float, parse: Callable[[Any], T]) -> T:
        """Returns `parse(body)`; retries until `deadline` (of `time.monotonic`) while a retry may succeed."""
        body = None if content is None else to_json(content)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return parse_body(f"{self._url}{path}", await self._try(method, path, body, deadline), parse)
            except GatewayError as error:
                wait_s = error.retry_after_s or pause_s * random.uniform(0.5, 1)  # not all callers at once
                if not error.is_transient or time.monotonic() + wait_s > deadline:
                    raise
                await asyncio.sleep(wait_s)
                if time.monotonic() >= deadline:  # the pause took longer; this error is more informative than a timeout
                    raise
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def stream_lines(self, method: str, path: str) -> AsyncGenerator[Any, None]:
        """Yields the lines of an NDJSON response, parsed; each may take the whole timeout. Never retried."""
        async with self._send(method, path, None, {}, ClientTimeout(sock_read=self._timeout_s)) as response:
            async for line in response.content:
                yield parse_body(f"{self._url}{path}", line, lambda value: value)

    async def _try(self, method: str, path: str, body: bytes | None, deadline: float) -> bytes:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise self._out_of_time(path)
        limits = ClientTimeout(total=left_s + GRACE_S)
        async with self._send(method, path, body, timeout_header(left_s), limits) as response:
            return await response.read()

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], limits: ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers, connector=aiohttp.TCPConnector(limit=0))
        url = self._url + path
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=limits, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise read_error(response.status, response.headers, await response.read())
                yield response
        except TimeoutError:
            raise self._out_of_time(path) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise GatewayError(f"cannot reach {url}: {error or type(error).__name__}", "unreachable") from error
        except aiohttp.InvalidURL:
            message = f"invalid URL: {self._url!r}; expected one such as http://127.0.0.1:8000"
            raise GatewayError(message, "invalid_url") from None
        except aiohttp.ClientError as error:
            raise GatewayError(f"cannot send a request to {url}: {error!r}", "bad_answer") from error

    def _out_of_time(self, path: str) -> GatewayError:
        return GatewayError(f"no response from {self._url}{path} within {self._timeout_s:g} s", "out_of_time")


def parse_body(url: str, content: bytes, parse: Callable[[Any], T]) -> T:
    try:
        return parse(orjson.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise GatewayError(
            f"invalid response from {url}: {error!r}; expected the JSON of a danmaku gateway", "bad_answer"
        ) from error


def timeout_header(left_s: float) -> dict[str, str]:
    return {"X-Timeout-Ms": str(min(max(1, int(left_s * 1000)), MAX_TIMEOUT_MS))}


def split_into_parts(items: Sequence[T], max_items: int, max_bytes: int) -> Iterator[list[T]]:
    """Yields consecutive parts within both limits; one empty part for an empty list, which also has a response."""
    part: list[T] = []
    size = 0
    for item in items:
        cost = len(to_json(item)) + 1
        if part and (len(part) == max_items or size + cost > max_bytes):
            yield part
            part, size = [], 0
        part.append(item)
        size += cost
    yield part


def to_json(content: object) -> bytes:
    try:
        return orjson.dumps(content)
    except TypeError as error:  # half of a surrogate pair, or a type that JSON does not have
        raise ValueError(f"invalid content: {error}; expected valid Unicode and JSON types") from None
