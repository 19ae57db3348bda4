"""A client of the gateway, for programs: lists of danmaku in, matrices out.

    with Client("http://127.0.0.1:8000") as client:
        vectors = client.embed(["草", "awsl"]).vectors  # [2, dim] float32

One idea: a call has one deadline, and until then it is worth trying again. A gateway that is busy or has no encoder
says when to come back, one that is being restarted refuses connections for a moment, and to embed twice does no harm.
The gateway is told how much time is left, so it does not work for a caller who no longer waits. Lists longer than it
takes are sent in parts. `AsyncClient` does the work; `Client` runs it on an event loop in a thread of its own, so that
it can be used anywhere, in a notebook, too. What is left out: redirects, proxies and cookies.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Self, TypeVar

import aiohttp
import numpy as np
import orjson

from service.answers import (
    Embedded,
    GatewayError,
    Info,
    Match,
    Similar,
    error_of,
    read_embedded,
    read_info,
    read_similar,
)
from service.errors import TextError

__all__ = ["AsyncClient", "Client", "Embedded", "GatewayError", "Info", "Match", "Similar", "TextError"]

FIRST_PAUSE_S = 0.1  # before a second try, when the gateway does not say; doubled every time
LONGEST_PAUSE_S = 5.0
GRACE_S = 0.5  # for the gateway's own word that the time is up to arrive
MOST_TIMEOUT_MS = 2**31 - 1  # what X-Timeout-Ms may say
AROUND_TEXTS_BYTES = 100  # of a body, beside its texts

T = TypeVar("T")


class AsyncClient:
    """An async context manager; within it any number of tasks may ask. Every method raises GatewayError."""

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 60.0) -> None:
        """`timeout_s` is for a whole call: all its parts, tries and pauses."""
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._info: Info | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def embed(self, texts: Sequence[str], *, normalize: bool = False) -> Embedded:
        """Vectors in the order of the texts, all of one model: if another takes over, the list is begun anew."""
        deadline = time.monotonic() + self._timeout_s
        limits = self._info = self._info or await self._ask_info(deadline)
        parts = list(_parts(texts, limits.max_request_texts, limits.max_body_bytes - AROUND_TEXTS_BYTES))
        done: list[Embedded] = []
        while len(done) < len(parts):
            done.append(await self._embed_part(parts[len(done)], normalize, deadline))
            if done[-1].fingerprint != done[0].fingerprint:
                done = []
        return _joined(done)

    async def similar(
        self,
        query: str | Sequence[str],
        candidates: Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
    ) -> Similar:
        """The candidates in order of likeness to each query. Sent in one request, however long."""
        queries = [query] if isinstance(query, str) else list(query)
        body = {"query": queries, "candidates": list(candidates), "top_k": top_k, "min_score": min_score}
        return await self._ask("POST", "/similar", body, time.monotonic() + self._timeout_s, read_similar)

    async def info(self) -> Info:
        return await self._ask_info(time.monotonic() + self._timeout_s)

    async def _ask_info(self, deadline: float) -> Info:
        return await self._ask("GET", "/info", None, deadline, read_info)

    async def _embed_part(self, texts: Sequence[str], normalize: bool, deadline: float) -> Embedded:
        body = {"texts": texts, "normalize": normalize, "encoding": "base64"}
        return await self._ask("POST", "/embed", body, deadline, lambda answer: read_embedded(answer, len(texts)))

    async def _ask(self, method: str, path: str, content: object, deadline: float, read: Callable[[Any], T]) -> T:
        """What `read` makes of the answer; asks again until the deadline, as long as trying again may help."""
        body = None if content is None else _json(content)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer = await self._once(method, path, body, deadline)
                break
            except GatewayError as error:
                wanted_s = error.retry_after_s or pause_s * random.uniform(0.5, 1)  # not all callers at once
                if not error.is_passing or time.monotonic() + wanted_s > deadline:
                    raise
            await asyncio.sleep(wanted_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        try:
            return read(orjson.loads(answer))
        except (ValueError, KeyError, TypeError) as error:
            raise GatewayError(
                f"{self._url}{path} answers, but not as a gateway does: {error!r}", "bad_answer"
            ) from error

    async def _once(self, method: str, path: str, body: bytes | None, deadline: float) -> bytes:
        left_s = deadline - time.monotonic()
        url = self._url + path
        if left_s > 0:
            headers = {"Content-Type": "application/json", **timeout_header(left_s)}
            timeout = aiohttp.ClientTimeout(total=left_s + GRACE_S)
            try:
                async with self._session.request(
                    method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
                ) as answer:
                    content = await answer.read()
                    if answer.status == 200:
                        return content
                    raise error_of(answer.status, answer.headers, content)
            except TimeoutError:
                pass
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                raise GatewayError(
                    f"{url} cannot be reached: {error or type(error).__name__}", "unreachable"
                ) from error
            except aiohttp.ClientError as error:
                raise GatewayError(f"{url} cannot be asked: {error!r}", "bad_answer") from error
        raise GatewayError(f"{url} did not answer within {self._timeout_s:g} s", "out_of_time")


class Client:
    """`AsyncClient` for programs without an event loop. A context manager; any number of threads may share it."""

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 60.0) -> None:
        self._client = AsyncClient(url, api_key, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="danmaku client", daemon=True)
        self._thread.start()
        self._wait(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._client.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def embed(self, texts: Sequence[str], *, normalize: bool = False) -> Embedded:
        """See `AsyncClient.embed`."""
        return self._wait(self._client.embed(texts, normalize=normalize))

    def similar(
        self,
        query: str | Sequence[str],
        candidates: Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
    ) -> Similar:
        """See `AsyncClient.similar`."""
        return self._wait(self._client.similar(query, candidates, top_k=top_k, min_score=min_score))

    def info(self) -> Info:
        return self._wait(self._client.info())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result()
        except BaseException:  # Ctrl-C, for one: nobody waits any more
            asked.cancel()
            raise


def timeout_header(left_s: float) -> dict[str, str]:
    return {"X-Timeout-Ms": str(min(max(1, int(left_s * 1000)), MOST_TIMEOUT_MS))}


def _parts(texts: Sequence[str], max_texts: int, max_bytes: int) -> Iterator[list[str]]:
    """The texts in parts that a gateway takes; at least one, since an empty list has an answer, too."""
    part: list[str] = []
    size = 0
    for text in texts:
        cost = len(_json(text)) + 1
        if part and (len(part) == max_texts or size + cost > max_bytes):
            yield part
            part, size = [], 0
        part.append(text)
        size += cost
    yield part


def _json(content: object) -> bytes:
    try:
        return orjson.dumps(content)
    except TypeError as error:  # half of a surrogate pair, or no text at all
        raise ValueError(f"this cannot be sent: {error}") from None


def _joined(parts: Sequence[Embedded]) -> Embedded:
    if len(parts) == 1:
        return parts[0]
    truncated, errors, first = [], [], 0
    for part in parts:
        truncated += [first + index for index in part.truncated]
        errors += [TextError(first + error.index, error.error, error.error_type) for error in part.errors]
        first += len(part.vectors)
    vectors = np.concatenate([part.vectors for part in parts])
    return Embedded(vectors, parts[0].model, parts[0].fingerprint, truncated, errors)
