"""One request to a gateway, tried until its deadline; lists of texts in parts that it takes.

A gateway that is busy or has no encoder says when to come back, and one that is being restarted refuses connections for
a moment: both are worth another try. It is told how much time is left, so that it does not work for a caller who no
longer waits.
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

from danmaku_client.responses import GatewayError, error_of

FIRST_PAUSE_S = 0.1  # before a second try, when the gateway does not say; doubled every time
LONGEST_PAUSE_S = 5.0
GRACE_S = 0.5  # for the gateway's own word that the time is up to arrive
MOST_TIMEOUT_MS = 2**31 - 1  # what X-Timeout-Ms may say

T = TypeVar("T")


class Asking:
    """Requests over one session. Every method raises GatewayError."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> None:
        self._session, self._url, self._timeout_s = session, url, timeout_s

    async def ask(self, method: str, path: str, content: object, deadline: float, read: Callable[[Any], T]) -> T:
        """What `read` makes of the answer; asks again until the deadline, as long as trying again may help."""
        body = None if content is None else to_json(content)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return read_as(f"{self._url}{path}", await self._try(method, path, body, deadline), read)
            except GatewayError as error:
                wanted_s = error.retry_after_s or pause_s * random.uniform(0.5, 1)  # not all callers at once
                if not error.is_passing or time.monotonic() + wanted_s > deadline:
                    raise
            await asyncio.sleep(wanted_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def lines(self, method: str, path: str) -> AsyncGenerator[Any, None]:
        """The lines of a long answer, each of which has the whole time to come; asked for once."""
        async with self._answer(method, path, None, {}, ClientTimeout(sock_read=self._timeout_s)) as answer:
            async for line in answer.content:
                yield read_as(f"{self._url}{path}", line, lambda told: told)

    async def _try(self, method: str, path: str, body: bytes | None, deadline: float) -> bytes:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise self._out_of_time(path)
        patience = ClientTimeout(total=left_s + GRACE_S)
        async with self._answer(method, path, body, timeout_header(left_s), patience) as answer:
            return await answer.read()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], patience: ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._url + path
        headers = {"Content-Type": "application/json", **headers}
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=patience, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise error_of(answer.status, answer.headers, await answer.read())
                yield answer
        except TimeoutError:
            raise self._out_of_time(path) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise GatewayError(f"{url} cannot be reached: {error or type(error).__name__}", "unreachable") from error
        except aiohttp.ClientError as error:
            raise GatewayError(f"{url} cannot be asked: {error!r}", "bad_answer") from error

    def _out_of_time(self, path: str) -> GatewayError:
        return GatewayError(f"{self._url}{path} did not answer within {self._timeout_s:g} s", "out_of_time")


def read_as(url: str, content: bytes, read: Callable[[Any], T]) -> T:
    try:
        return read(orjson.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise GatewayError(f"{url} answers, but not as a gateway does: {error!r}", "bad_answer") from error


def timeout_header(left_s: float) -> dict[str, str]:
    return {"X-Timeout-Ms": str(min(max(1, int(left_s * 1000)), MOST_TIMEOUT_MS))}


def in_parts(items: Sequence[T], max_items: int, max_bytes: int) -> Iterator[list[T]]:
    """The items in parts that a gateway takes; at least one, since an empty list has an answer, too."""
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
    except TypeError as error:  # half of a surrogate pair, or no text at all
        raise ValueError(f"this cannot be sent: {error}") from None
