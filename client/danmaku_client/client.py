"""Clients of the gateway: lists of danmaku in, matrices out.

    client = Client("http://127.0.0.1:8000")
    vectors = client.embed(["草", "awsl"]).vectors  # [2, dim] float32

A call has one deadline and is retried until then (`requests.py`). Lists longer than the gateway accepts are sent in
parts. `AsyncClient` does the work; `Client` runs it on an event loop in a separate thread, so it also works in a
notebook, where an event loop is already running. Redirects, proxies and cookies are not supported.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import numpy as np

from danmaku_client.requests import GatewaySession, split_into_parts
from danmaku_client.responses import (
    AddResponse,
    CollectionDescription,
    CollectionItem,
    CollectionPage,
    EmbedResponse,
    GatewayInfo,
    ObserveResponse,
    RebuildProgress,
    SimilarResponse,
    TextError,
    TopicsResponse,
    read_add_response,
    read_collection,
    read_collections,
    read_deleted,
    read_embed_response,
    read_info,
    read_observe_response,
    read_page,
    read_rebuild_progress,
    read_similar_response,
    read_topics_response,
)

OVERHEAD_BYTES = 100  # of a request body, besides its texts

T = TypeVar("T")


class AsyncClient:
    """Connects on the first call; `aclose` it, or use it as an async context manager.

    Any number of tasks may share it. Every method raises GatewayError, and TypeError for a text in the place of a list.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 60.0) -> None:
        """`timeout_s` limits a whole call: all its parts, retries and pauses."""
        self._session = GatewaySession(url, api_key, timeout_s)
        self._timeout_s = timeout_s
        self._info: GatewayInfo | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._session.aclose()

    async def info(self) -> GatewayInfo:
        return await self._session.request("GET", "/info", None, self._deadline(), read_info)

    async def embed(self, texts: Sequence[str], *, normalize: bool = False) -> EmbedResponse:
        """Embeds the texts, in order, with one model: starts over if the gateway changes its model meanwhile."""
        _check_list("texts", texts)
        deadline = self._deadline()
        parts = await self._split(texts, deadline)
        done: list[EmbedResponse] = []
        while len(done) < len(parts):
            part = parts[len(done)]
            body = {"texts": part, "normalize": normalize, "encoding": "base64"}
            read = partial(read_embed_response, expected=len(part))
            done.append(await self._session.request("POST", "/embed", body, deadline, read))
            if done[-1].fingerprint != done[0].fingerprint:
                done = []
        return _join(done)

    async def similar(
        self,
        query: str | Sequence[str],
        candidates: Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
    ) -> SimilarResponse:
        """Ranks the candidates by similarity to each query, in one request however long the lists are."""
        _check_list("candidates", candidates)
        return await self._similar(query, {"candidates": list(candidates), "top_k": top_k, "min_score": min_score})

    async def search(
        self,
        collection: str,
        query: str | Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> SimilarResponse:
        """Finds the danmaku of a collection most similar to each query; `top_k` is 10 by default."""
        return await self._similar(
            query, {"collection": collection, "top_k": top_k, "min_score": min_score, "filter": filter}
        )

    async def collections(self) -> list[CollectionDescription]:
        return await self._session.request("GET", "/collections", None, self._deadline(), read_collections)

    async def create(self, collection: str) -> CollectionDescription:
        """Creates an empty collection, or returns the existing one."""
        return await self._session.request("PUT", _path(collection), None, self._deadline(), read_collection)

    async def drop(self, collection: str) -> CollectionDescription:
        """Deletes a collection with all its danmaku and returns its last description."""
        return await self._session.request("DELETE", _path(collection), None, self._deadline(), read_collection)

    async def describe(self, collection: str) -> CollectionDescription:
        return await self._session.request("GET", _path(collection), None, self._deadline(), read_collection)

    async def page(self, collection: str, *, after: str | None = None, limit: int = 1000) -> CollectionPage:
        """Lists danmaku after `after`. Paging sees each danmaku once, unless it is deleted meanwhile."""
        options = urlencode({"limit": limit} | ({} if after is None else {"after": after}))
        path = f"{_path(collection, 'danmaku')}?{options}"
        return await self._session.request("GET", path, None, self._deadline(), read_page)

    async def add(self, collection: str, items: Sequence[str | CollectionItem | Mapping[str, Any]]) -> AddResponse:
        """Adds danmaku, or replaces those with the same id. Mappings are sent unchanged.

        Adding a text again increases its count, so counts may be too high after a retry on a broken connection.
        """
        deadline = self._deadline()
        done: list[AddResponse] = []
        first = 0
        for part in await self._split(_to_bodies(items), deadline):
            added = await self._session.request("POST", _path(collection, "danmaku"), part, deadline, read_add_response)
            reasons = [TextError(first + reason.index, reason.error, reason.error_type) for reason in added.reasons]
            done.append(AddResponse(added.added, added.replaced, added.refused, reasons))
            first += len(part)
        return AddResponse(
            sum(response.added for response in done),
            sum(response.replaced for response in done),
            sum(response.refused for response in done),
            [reason for response in done for reason in response.reasons],
        )

    async def observe(
        self,
        collection: str,
        lines: Sequence[str | CollectionItem | Mapping[str, Any]],
        *,
        heads: Sequence[str] = (),
    ) -> ObserveResponse:
        """Adds lines of a chat as `add` does, and returns for each the nearest earlier danmaku and its topic.

        Mappings are sent unchanged; they may have a `time`. `heads` are the names of the heads that label the lines.
        """
        deadline = self._deadline()
        done: list[ObserveResponse] = []
        first = 0
        for part in await self._split(_to_bodies(lines), deadline) or [[]]:
            query = f"?{urlencode({'heads': ','.join(heads)})}" if heads else ""
            path = _path(collection, "observe") + query
            observed = await self._session.request("POST", path, part, deadline, read_observe_response)
            errors = [TextError(first + each.index, each.error, each.error_type) for each in observed.errors]
            done.append(ObserveResponse(observed.model, observed.fingerprint, observed.lines, errors))
            first += len(part)
        return ObserveResponse(
            done[-1].model,
            done[-1].fingerprint,
            [line for response in done for line in response.lines],
            [error for response in done for error in response.errors],
        )

    async def topics(self, collection: str) -> TopicsResponse:
        """Returns the topics of the lines observed within the last minute."""
        return await self._session.request(
            "GET", _path(collection, "topics"), None, self._deadline(), read_topics_response
        )

    async def delete(self, collection: str, id: str) -> bool:
        """Deletes a danmaku; returns whether it existed."""
        path = _path(collection, "danmaku", id)
        return bool(await self._session.request("DELETE", path, None, self._deadline(), read_deleted))

    async def delete_where(self, collection: str, filter: Mapping[str, Any]) -> int:
        """Deletes all danmaku whose metadata match and returns their number."""
        path = _path(collection, "delete")
        return await self._session.request("POST", path, {"filter": filter}, self._deadline(), read_deleted)

    async def rebuild(self, collection: str) -> AsyncGenerator[RebuildProgress, None]:
        """Embeds all texts again after a change of model. `timeout_s` limits each step; finished steps are kept."""
        async with aclosing(self._session.stream_lines("POST", _path(collection, "rebuild"))) as lines:
            async for line in lines:
                yield read_rebuild_progress(line)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    async def _split(self, items: Sequence[T], deadline: float) -> list[list[T]]:
        if self._info is None:
            self._info = await self._session.request("GET", "/info", None, deadline, read_info)
        limits = self._info
        return list(split_into_parts(items, limits.max_request_texts, limits.max_body_bytes - OVERHEAD_BYTES))

    async def _similar(self, query: str | Sequence[str], options: Mapping[str, object]) -> SimilarResponse:
        body = {"query": [query] if isinstance(query, str) else list(query), **options}
        return await self._session.request("POST", "/similar", body, self._deadline(), read_similar_response)


class Client:
    """`AsyncClient` for programs without an event loop; see there for its methods.

    Any number of threads may share it. `close` it, or use it as a context manager; otherwise it closes at exit.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 60.0) -> None:
        self._client = AsyncClient(url, api_key, timeout_s=timeout_s)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels calls that are waiting and disconnects. A later call connects again."""
        with self._lock:
            if self._loop:
                self._finalize()
                self._loop = None

    def info(self) -> GatewayInfo:
        return self._wait(self._client.info())

    def embed(self, texts: Sequence[str], *, normalize: bool = False) -> EmbedResponse:
        return self._wait(self._client.embed(texts, normalize=normalize))

    def similar(
        self,
        query: str | Sequence[str],
        candidates: Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
    ) -> SimilarResponse:
        return self._wait(self._client.similar(query, candidates, top_k=top_k, min_score=min_score))

    def search(
        self,
        collection: str,
        query: str | Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> SimilarResponse:
        return self._wait(self._client.search(collection, query, top_k=top_k, min_score=min_score, filter=filter))

    def collections(self) -> list[CollectionDescription]:
        return self._wait(self._client.collections())

    def create(self, collection: str) -> CollectionDescription:
        return self._wait(self._client.create(collection))

    def drop(self, collection: str) -> CollectionDescription:
        return self._wait(self._client.drop(collection))

    def describe(self, collection: str) -> CollectionDescription:
        return self._wait(self._client.describe(collection))

    def page(self, collection: str, *, after: str | None = None, limit: int = 1000) -> CollectionPage:
        return self._wait(self._client.page(collection, after=after, limit=limit))

    def add(self, collection: str, items: Sequence[str | CollectionItem | Mapping[str, Any]]) -> AddResponse:
        return self._wait(self._client.add(collection, items))

    def observe(
        self,
        collection: str,
        lines: Sequence[str | CollectionItem | Mapping[str, Any]],
        *,
        heads: Sequence[str] = (),
    ) -> ObserveResponse:
        return self._wait(self._client.observe(collection, lines, heads=heads))

    def topics(self, collection: str) -> TopicsResponse:
        return self._wait(self._client.topics(collection))

    def delete(self, collection: str, id: str) -> bool:
        return self._wait(self._client.delete(collection, id))

    def delete_where(self, collection: str, filter: Mapping[str, Any]) -> int:
        return self._wait(self._client.delete_where(collection, filter))

    def rebuild(self, collection: str) -> Iterator[RebuildProgress]:
        steps = self._client.rebuild(collection)

        async def read_step() -> RebuildProgress | None:
            return await anext(steps, None)

        try:
            while step := self._wait(read_step()):
                yield step
        finally:
            self._wait(steps.aclose())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._loop.run_forever, name="danmaku client", daemon=True)
                thread.start()
                self._finalize = weakref.finalize(self, _stop, self._loop, thread, self._client)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # such as KeyboardInterrupt: the result is not wanted any more
            future.cancel()
            raise


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: AsyncClient) -> None:
    stopping = asyncio.run_coroutine_threadsafe(_shut_down(client), loop)
    stopping.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    if threading.current_thread() is not thread:  # this happens if the garbage collector runs there
        thread.join()
        loop.close()


async def _shut_down(client: AsyncClient) -> None:
    """Cancels the calls in progress, since the event loop would complain of tasks that it leaves behind."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()


def _path(*names: str) -> str:
    return "/collections/" + "/".join(quote(name, safe="") for name in names)


def _check_list(name: str, texts: object) -> None:
    """Raises TypeError for a single text, which Python would take for a list of its characters."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"invalid {name}: {texts[:80]!r}; expected a list of texts")


def _to_bodies(items: Sequence[str | CollectionItem | Mapping[str, Any]]) -> list[object]:
    _check_list("items", items)
    return [asdict(item) if isinstance(item, CollectionItem) else item for item in items]


def _join(parts: Sequence[EmbedResponse]) -> EmbedResponse:
    if len(parts) == 1:
        return parts[0]
    truncated, errors, first = [], [], 0
    for part in parts:
        truncated += [first + index for index in part.truncated]
        errors += [TextError(first + error.index, error.error, error.error_type) for error in part.errors]
        first += len(part.vectors)
    vectors = np.concatenate([part.vectors for part in parts])
    return EmbedResponse(vectors, parts[0].model, parts[0].fingerprint, truncated, errors)
