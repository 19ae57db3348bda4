"""A client of the gateway, for programs: lists of danmaku in, matrices out.

    with Client("http://127.0.0.1:8000") as client:
        vectors = client.embed(["草", "awsl"]).vectors  # [2, dim] float32

One idea: a call has one deadline, and until then it is worth trying again (`requests.py`). Longer lists than the
gateway takes are sent in parts. `AsyncClient` does the work; `Client` runs it on an event loop in a thread of its own,
so that it can be used anywhere, in a notebook, too. What is left out: redirects, proxies and cookies.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import numpy as np

from danmaku_client.requests import Asking, in_parts
from danmaku_client.responses import (
    Added,
    Collection,
    Embedded,
    Info,
    Item,
    Page,
    Rebuilding,
    Similar,
    TextError,
    read_added,
    read_collection,
    read_collections,
    read_deleted,
    read_embedded,
    read_info,
    read_page,
    read_rebuilding,
    read_similar,
)

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
        self._asking = Asking(self._session, self._url, self._timeout_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def info(self) -> Info:
        return await self._asking.ask("GET", "/info", None, self._deadline(), read_info)

    async def embed(self, texts: Sequence[str], *, normalize: bool = False) -> Embedded:
        """Vectors in the order of the texts, all of one model: if another takes over, the list is begun anew."""
        deadline = self._deadline()
        parts = await self._in_parts(texts, deadline)
        done: list[Embedded] = []
        while len(done) < len(parts):
            part = parts[len(done)]
            body = {"texts": part, "normalize": normalize, "encoding": "base64"}
            read = partial(read_embedded, expected=len(part))
            done.append(await self._asking.ask("POST", "/embed", body, deadline, read))
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
        return await self._similar(query, {"candidates": list(candidates), "top_k": top_k, "min_score": min_score})

    async def search(
        self,
        collection: str,
        query: str | Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Similar:
        """What of a collection is nearest to each query; 10 matches unless `top_k` says otherwise."""
        return await self._similar(
            query, {"collection": collection, "top_k": top_k, "min_score": min_score, "filter": filter}
        )

    async def collections(self) -> list[Collection]:
        return await self._asking.ask("GET", "/collections", None, self._deadline(), read_collections)

    async def create(self, collection: str) -> Collection:
        """An empty collection, or the one that is there."""
        return await self._asking.ask("PUT", _path(collection), None, self._deadline(), read_collection)

    async def drop(self, collection: str) -> Collection:
        """Drops it with all its danmaku; describes what it was."""
        return await self._asking.ask("DELETE", _path(collection), None, self._deadline(), read_collection)

    async def describe(self, collection: str) -> Collection:
        return await self._asking.ask("GET", _path(collection), None, self._deadline(), read_collection)

    async def page(self, collection: str, *, after: str | None = None, limit: int = 1000) -> Page:
        """The danmaku behind a page; each that stays is seen once, whatever happens meanwhile."""
        options = urlencode({"limit": limit} | ({} if after is None else {"after": after}))
        path = f"{_path(collection, 'danmaku')}?{options}"
        return await self._asking.ask("GET", path, None, self._deadline(), read_page)

    async def add(self, collection: str, items: Sequence[str | Item | Mapping[str, Any]]) -> Added:
        """Adds danmaku, or replaces those of the same id. Mappings are sent as they are.

        Of an item that is there with the same text the counts add up; so if a connection breaks and the items are sent
        again, a count may be too high.
        """
        deadline = self._deadline()
        bodies = [asdict(item) if isinstance(item, Item) else item for item in items]
        done: list[Added] = []
        first = 0
        for part in await self._in_parts(bodies, deadline):
            added = await self._asking.ask("POST", _path(collection, "danmaku"), part, deadline, read_added)
            reasons = [TextError(first + each.index, each.error, each.error_type) for each in added.reasons]
            done.append(Added(added.added, added.replaced, added.refused, reasons))
            first += len(part)
        return Added(
            sum(each.added for each in done),
            sum(each.replaced for each in done),
            sum(each.refused for each in done),
            [reason for each in done for reason in each.reasons],
        )

    async def delete(self, collection: str, id: str) -> bool:
        """Whether it was there."""
        path = _path(collection, "danmaku", id)
        return bool(await self._asking.ask("DELETE", path, None, self._deadline(), read_deleted))

    async def delete_where(self, collection: str, filter: Mapping[str, Any]) -> int:
        """Deletes all danmaku whose metadata match; how many there were."""
        path = _path(collection, "delete")
        return await self._asking.ask("POST", path, {"filter": filter}, self._deadline(), read_deleted)

    async def rebuild(self, collection: str) -> AsyncGenerator[Rebuilding, None]:
        """Embeds all texts anew after a change of model. `timeout_s` is for each step; what is done stays done."""
        async with aclosing(self._asking.lines("POST", _path(collection, "rebuild"))) as lines:
            async for line in lines:
                yield read_rebuilding(line)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    async def _in_parts(self, items: Sequence[T], deadline: float) -> list[list[T]]:
        if self._info is None:
            self._info = await self._asking.ask("GET", "/info", None, deadline, read_info)
        limits = self._info
        return list(in_parts(items, limits.max_request_texts, limits.max_body_bytes - AROUND_TEXTS_BYTES))

    async def _similar(self, query: str | Sequence[str], options: Mapping[str, object]) -> Similar:
        body = {"query": [query] if isinstance(query, str) else list(query), **options}
        return await self._asking.ask("POST", "/similar", body, self._deadline(), read_similar)


class Client:
    """`AsyncClient` for programs without an event loop. A context manager; any number of threads may share it.

    Every method is that of `AsyncClient`.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 60.0) -> None:
        self._client = AsyncClient(url, api_key, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="danmaku client", daemon=True)
        self._thread.start()
        self._wait(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(_cancel_others())
        self._wait(self._client.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def info(self) -> Info:
        return self._wait(self._client.info())

    def embed(self, texts: Sequence[str], *, normalize: bool = False) -> Embedded:
        return self._wait(self._client.embed(texts, normalize=normalize))

    def similar(
        self,
        query: str | Sequence[str],
        candidates: Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
    ) -> Similar:
        return self._wait(self._client.similar(query, candidates, top_k=top_k, min_score=min_score))

    def search(
        self,
        collection: str,
        query: str | Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Similar:
        return self._wait(self._client.search(collection, query, top_k=top_k, min_score=min_score, filter=filter))

    def collections(self) -> list[Collection]:
        return self._wait(self._client.collections())

    def create(self, collection: str) -> Collection:
        return self._wait(self._client.create(collection))

    def drop(self, collection: str) -> Collection:
        return self._wait(self._client.drop(collection))

    def describe(self, collection: str) -> Collection:
        return self._wait(self._client.describe(collection))

    def page(self, collection: str, *, after: str | None = None, limit: int = 1000) -> Page:
        return self._wait(self._client.page(collection, after=after, limit=limit))

    def add(self, collection: str, items: Sequence[str | Item | Mapping[str, Any]]) -> Added:
        return self._wait(self._client.add(collection, items))

    def delete(self, collection: str, id: str) -> bool:
        return self._wait(self._client.delete(collection, id))

    def delete_where(self, collection: str, filter: Mapping[str, Any]) -> int:
        return self._wait(self._client.delete_where(collection, filter))

    def rebuild(self, collection: str) -> Iterator[Rebuilding]:
        steps = self._client.rebuild(collection)

        async def following() -> Rebuilding | None:
            return await anext(steps, None)

        try:
            while step := self._wait(following()):
                yield step
        finally:
            self._wait(steps.aclose())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result()
        except BaseException:  # Ctrl-C, for one: nobody waits any more
            asked.cancel()
            raise


async def _cancel_others() -> None:
    """Ends requests that nobody waits for any more: a loop that stops under them would complain."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _path(*names: str) -> str:
    return "/collections/" + "/".join(quote(name, safe="") for name in names)


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
