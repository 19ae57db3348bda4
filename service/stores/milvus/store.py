"""Stores collections in Milvus, for any number of gateways.

A call's own changes are seen by this gateway's next call. Another gateway's searches see them one tick of Milvus later
(`proxy.timeTickInterval`), or at once with `?consistency=strong`, for which each search waits that long.

Milvus has no conditional write. So `put` reads the existing rows, adds the counts and writes whole rows, one call per
collection at a time. The read does not wait for a tick, which would limit a gateway to a few tens of calls a second;
instead the gateway remembers what it wrote in the last seconds. If two gateways put the same id within a second, one
may miss the other's count, but nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from operator import itemgetter
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from pymilvus.client.types import LoadState

from service.errors import ConfigurationError, DanmakuError, StoreUnavailable
from service.stores.base import (
    Changes,
    CollectionInfo,
    Item,
    Match,
    Page,
    add_counts,
    check_dim,
    invalid_cursor,
    merge_items,
)
from service.stores.filters import Filter, matches
from service.stores.milvus.catalog import PARTITIONS, REFRESH_EVERY_S, Catalog, Owner, make_collection
from service.stores.milvus.columns import Columns
from service.stores.milvus.connection import ANSWER_TIMEOUT_S, BOUNDED, SESSION, Connection
from service.stores.milvus.filter import EVERYTHING, Expression, build_expression
from service.stores.milvus.recent import Recent, Written
from service.stores.milvus.rows import FIELDS, KEYS, make_index, make_key, make_schema, to_columns, to_items, write_key

log = logging.getLogger("danmaku")

SWEEP_EVERY_S = 5.0
CLEAN_AFTER_S = 20.0  # by then, every gateway knows that the collection was dropped
VISITED = 256  # nodes of the graph that a search visits
MAX_LIMIT = 16_384  # of Milvus
ROW_BYTES = 300  # of a row without its vector, about


class MilvusStore:
    """A `Store` in Milvus, made by `open`."""

    damaged = 0

    def __init__(self, url: str, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._connection = Connection(url, answer_timeout_s)
        self._catalog = Catalog(self._connection)
        self._recent = Recent()
        self._places: set[str] = set()  # Milvus collections that are known to be loaded
        self._making = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, **options: Any) -> MilvusStore:
        """Opens the store. A Milvus that is unreachable now may become reachable later.

        Raises ConfigurationError if the URL is invalid, or if Milvus refuses the user and password in it.
        """
        store = cls(url, **options)
        try:
            await store._catalog.read()
        except StoreUnavailable as error:
            log.warning("Collections are unavailable for now: %s.", error)
        except ConfigurationError:
            await store.close()
            raise
        store._keeper = asyncio.create_task(store._keep(), name="remove expired items from Milvus")
        return store

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._connection.close()

    async def create(self, name: str, *, dim: int, fingerprint: str) -> CollectionInfo:
        return await self._measure(await self._catalog.create(name, dim, fingerprint))

    async def drop(self, name: str) -> None:
        await self._catalog.drop(name)

    async def list(self) -> Sequence[CollectionInfo]:
        return await asyncio.gather(*(self._measure(owner) for owner in await self._catalog.read()))

    async def count_collections(self) -> int:
        return len(await self._catalog.read())

    async def describe(self, name: str) -> CollectionInfo:
        return await self._measure(await self._catalog.find(name))

    async def fingerprint(self, name: str) -> str:
        return (await self._find(name)).fingerprint

    async def swap(self, name: str, replacement: str) -> None:
        await self._catalog.swap(name, replacement)

    async def put(self, name: str, items: Sequence[Item]) -> Changes:
        async with self._lock(name):
            owner = await self._find(name)
            check_dim(name, owner.dim, [item.vector for item in items])
            if not (merged := {make_key(owner.id, item.id): item for item in merge_items(items)}):
                return Changes(0, 0)
            if not await self._is_loaded(owner):
                await self._load(owner)
            before, now = await self._read_written(owner, [*merged]), time.time()
            counts = [
                add_counts(item.count, before[key].count if key in before and before[key].text == item.text else 0)
                for key, item in merged.items()
            ]
            columns = to_columns(owner.id, [*merged], [*merged.values()], counts, now)
            await self._connection.upsert(owner.place, owner.partition, columns)
            written = zip(columns["text"], counts, columns["expires_at"], strict=True)
            self._recent.put({key: Written(now, *each) for key, each in zip(merged, written, strict=True)})
        return Changes(len(merged) - len(before), len(before))

    async def get(self, name: str, ids: Sequence[str]) -> dict[str, Item]:
        owner = await self._find(name)
        found = {item.id: item for item in await self._read(owner, ids, [*FIELDS, "vector"])}
        return {item_id: found[item_id] for item_id in ids if item_id in found}

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        async with self._lock(name):
            owner = await self._find(name)
            found = [make_key(owner.id, item.id) for item in await self._read(owner, ids, FIELDS)]
            await self._delete_keys(owner, found)
        return len(found)

    async def delete_where(self, name: str, condition: Filter) -> int:
        where = build_expression(condition)
        async with self._lock(name):
            owner = await self._find(name)
            if not await self._is_loaded(owner):
                return 0
            if where.is_exact:
                deleted = await self._connection.delete(owner.place, owner.partition, _restrict(owner, where.text))
                self._recent.clear()  # the rows are unknown, so the next read is strict
                return deleted
            rows = [row async for row in self._walk(owner, 0, MAX_LIMIT, FIELDS, where.text)]
            keys = [key for key, item in rows if matches(condition, item.metadata)]
            await self._delete_keys(owner, keys)
        return len(keys)

    async def search(
        self,
        name: str,
        queries: np.ndarray,
        *,
        top_k: int,
        min_score: float | None = None,
        filter: Filter | None = None,  # noqa: A002 -- as in a request
        with_vectors: bool = False,
    ) -> Sequence[Sequence[Match]]:
        owner = await self._find(name)
        check_dim(name, owner.dim, [*queries])
        if not len(queries) or not await self._is_loaded(owner):
            return [[] for _ in queries]
        where = Expression(EVERYTHING, True) if filter is None else build_expression(filter)
        fields, limit = [*FIELDS, "vector"] if with_vectors else FIELDS, top_k
        while True:
            scores, columns = await self._connection.search(
                owner.place, owner.partition, queries, _restrict(owner, where.text), fields, limit, VISITED
            )
            items, now = iter(to_items(columns) if any(scores) else []), time.time()
            results = [
                [
                    Match(item, min(1.0, score))
                    for score, item in zip(part, items, strict=False)
                    if (min_score is None or score >= min_score)
                    and _is_there(item, now)
                    and (filter is None or where.is_exact or matches(filter, item.metadata))
                ]
                for part in scores
            ]
            # If the expression matches more than the filter, too few may be left.
            is_cut = any(
                len(part) == limit and len(result) < top_k for part, result in zip(scores, results, strict=True)
            )
            if where.is_exact or not is_cut or limit == MAX_LIMIT:
                return [result[:top_k] for result in results]
            limit = min(8 * limit, MAX_LIMIT)

    async def page(self, name: str, *, after: str | None = None, limit: int, with_vectors: bool = False) -> Page:
        """Returns a page in the order of the keys; `next` is `>` and the last key."""
        start = 0
        if after is not None:
            try:
                start = int(after.removeprefix(">"), 16) + 1
            except ValueError:
                raise invalid_cursor(after) from None
            if after != ">" + write_key(start - 1):
                raise invalid_cursor(after)
        owner = await self._find(name)
        rows: list[tuple[str, Item]] = []
        if await self._is_loaded(owner):
            async for row in self._walk(owner, start, limit + 1, [*FIELDS, "vector"] if with_vectors else FIELDS):
                rows.append(row)
                if len(rows) > limit:
                    break
        return Page([item for _, item in rows[:limit]], ">" + rows[limit - 1][0] if len(rows) > limit else None)

    async def _walk(
        self, owner: Owner, start: int, wanted: int, fields: Sequence[str], where: str = EVERYTHING
    ) -> AsyncIterator[tuple[str, Item]]:
        """Yields items in the order of their keys, read in ranges that should have somewhat more than are wanted."""
        width = max(1, KEYS * 5 * wanted // (4 * max(1, await self._count(owner, where))))
        while start < KEYS:
            end = min(start + width, KEYS) - 1
            keys = f'key >= "{write_key(start)}" and key <= "{write_key(end)}"'
            columns = await self._query(owner, f"{_restrict(owner, where)} and {keys}", ["key", *fields])
            if columns["key"]:
                for row in sorted(zip(columns["key"], to_items(columns), strict=True), key=itemgetter(0)):
                    yield row
            start = end + 1

    async def _read(self, owner: Owner, ids: Sequence[str], fields: Sequence[str]) -> Sequence[Item]:
        """Returns the ids that exist."""
        if not ids or not await self._is_loaded(owner):
            return []
        where = _among([make_key(owner.id, item_id) for item_id in ids])
        columns, now = await self._query(owner, where, fields), time.time()
        return [item for item in (to_items(columns) if columns["id"] else []) if _is_there(item, now)]

    async def _read_written(self, owner: Owner, keys: Sequence[str]) -> dict[str, Written]:
        """Returns the facts about existing items that an addition needs."""
        columns = await self._query(owner, _among(keys), ["key", *Written.__slots__], BOUNDED)
        rows = zip(*(columns[name] for name in Written.__slots__), strict=True)
        stored = dict(zip(columns["key"], (Written(*row) for row in rows), strict=True))
        latest = ((key, self._recent.latest(key, stored.get(key))) for key in keys)
        now = time.time()
        return {key: each for key, each in latest if each and each.text is not None and each.expires_at > now}

    async def _query(self, owner: Owner, where: str, fields: Sequence[str], consistency: str = SESSION) -> Columns:
        return await self._connection.query(owner.place, owner.partition, where, fields, consistency)

    async def _count(self, owner: Owner, where: str = EVERYTHING) -> int:
        if not await self._is_loaded(owner):
            return 0
        (count,) = (await self._query(owner, _restrict(owner, where), ["count(*)"]))["count(*)"]
        return int(count)

    async def _delete_keys(self, owner: Owner, keys: Sequence[str]) -> None:
        if keys:
            await self._connection.delete(owner.place, owner.partition, _among(keys))
            self._recent.put(dict.fromkeys(keys, Written(time.time(), None, 0, 0.0)))

    async def _measure(self, owner: Owner) -> CollectionInfo:
        count = await self._count(owner)
        size = count * (4 * owner.dim + ROW_BYTES)
        return CollectionInfo(owner.name, count, owner.dim, owner.fingerprint, size, owner.created_at)

    async def _find(self, name: str) -> Owner:
        return await self._catalog.find(name)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _is_loaded(self, owner: Owner) -> bool:
        """Returns whether the Milvus collection exists. It is made for the first item, not for an empty collection."""
        if owner.place not in self._places and await self._connection.manage("has_collection", owner.place):
            state = await self._connection.manage("get_load_state", owner.place)
            if state["state"] == LoadState.Loaded:
                self._places.add(owner.place)
            else:
                await self._load(owner)
        return owner.place in self._places

    async def _load(self, owner: Owner) -> None:
        async with self._making:
            if owner.place not in self._places:
                await make_collection(self._connection, owner.place, make_schema(owner.dim), make_index(), PARTITIONS)
                self._places.add(owner.place)

    async def _keep(self) -> None:
        """Follows other gateways' changes of the catalog and removes unneeded rows, until it is cancelled."""
        swept_at = time.monotonic()
        while True:
            await asyncio.sleep(REFRESH_EVERY_S)
            # Callers of the store report an unreachable Milvus.
            with contextlib.suppress(DanmakuError):
                await self._catalog.refresh()
                if time.monotonic() > swept_at + SWEEP_EVERY_S:
                    await self._sweep()
                    swept_at = time.monotonic()

    async def _sweep(self) -> None:
        """Removes expired items and those of dropped collections. All gateways do this, which is harmless."""
        self._places &= {*await self._connection.manage("list_collections")}  # Milvus may have been restored
        for place in {owner.place for owner in self._catalog.owners} & self._places:
            await self._connection.delete(place, "", f"expires_at <= {time.time()}")
        for owner in self._catalog.owners:
            if 0 < owner.dropped_at < time.time() - CLEAN_AFTER_S:
                if await self._is_loaded(owner):
                    await self._connection.delete(owner.place, owner.partition, f'owner == "{owner.id}"')
                await self._catalog.forget(owner)


def _restrict(owner: Owner, where: str) -> str:
    return f'owner == "{owner.id}" and expires_at > {time.time()} and {where}'


def _among(keys: Sequence[str]) -> str:
    return "key in [" + ",".join(f'"{key}"' for key in keys) + "]"


def _is_there(item: Item, now: float) -> bool:
    return item.expires_at is None or item.expires_at > now
