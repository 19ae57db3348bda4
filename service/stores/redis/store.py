"""Collections in Redis 8, shared by any number of processes, and spread over the servers of a cluster.

A collection is split into shards by a hash of an item's id. Each shard is a vector set with its other keys in one slot
(shard.py), and slots are chosen to distribute the shards evenly over the servers. A search queries all shards at once
and merges: the result is that of one shard with everything.

A table maps each name to its shards, so replacing a collection changes one entry. A process caches the entries it has
read, and every script checks whether its shard is still `open`; if not, the entry is read again. So all processes see
each other's changes at once, without reading the table on every call.

Stored items are as durable as the Redis is configured to be (`appendonly yes`, `appendfsync always` to lose nothing).
Each item is stored completely or not at all. A call that fails halfway has stored some of its items, since a cluster
has no transactions across servers. Expired items are removed by a sweep that uses half of Redis' time at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count as numbers
from typing import Any, TypeVar

import numpy as np
import orjson
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from service.errors import DanmakuError, StoreUnavailable
from service.stores.base import (
    Changes,
    CollectionInfo,
    Item,
    Match,
    Page,
    check_dim,
    check_kind,
    invalid_cursor,
    merge_items,
    no_collection,
)
from service.stores.filters import Filter
from service.stores.redis.connection import ANSWER_TIMEOUT_S, Connection, Gone
from service.stores.redis.search import Search, gather_all, read_items
from service.stores.redis.shard import Shard

log = logging.getLogger("danmaku")
Answer = TypeVar("Answer")

TABLE = "danmaku:{collections}"  # hash: name → record of its shards
DROPPED = "danmaku:{collections}:dropped"  # set: records whose shards are still to be removed
SWEEPER = "danmaku:{collections}:sweeper"  # exists while a process sweeps
SWEEP_FOR_S = 5

DROP = """
local record = redis.call('HGET', KEYS[1], ARGV[1])
if record then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('SADD', KEYS[2], record)
end
return record
"""
SWAP = """
local old, new = redis.call('HGET', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[1], ARGV[2])
if not old or not new then return {old and ARGV[2] or ARGV[1], false} end
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], new)
redis.call('SADD', KEYS[2], old)
return {false, old}
"""
# Allowed in a full Redis, since a sweep makes room.
LOCK_SWEEP = """#!lua flags=allow-oom
return redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class _ShardedCollection:
    """An entry of the table."""

    name: str
    record: bytes  # its JSON in the table
    dim: int
    fingerprint: str
    created_at: float
    shards: tuple[Shard, ...]

    def by_shard(self, ids: Sequence[str]) -> dict[Shard, list[str]]:
        parts: dict[Shard, list[str]] = {}
        for item_id in ids:
            parts.setdefault(self.shard_of(item_id), []).append(item_id)
        return parts

    def shard_of(self, item_id: str) -> Shard:
        return self.shards[int.from_bytes(blake2b(item_id.encode(), digest_size=8).digest()) % len(self.shards)]


class RedisStore:
    """A `Store` in Redis, made by `open`.

    `sweep_every_s`: the pause between two sweeps of expired items. For the limits of exact search see `Shard`.
    """

    damaged = 0

    def __init__(
        self,
        url: str,
        *,
        sweep_every_s: float = 1.0,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        exact_up_to: int = 2000,
        exact_filtered_up_to: int = 50_000,
    ) -> None:
        self._connection = Connection(url, answer_timeout_s)
        self._sweep_every_s, self._exact_limits = sweep_every_s, (exact_up_to, exact_filtered_up_to)
        self._known: dict[str, _ShardedCollection] = {}
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, **options: Any) -> RedisStore:
        """Opens the store, with the options of `__init__`. A Redis that is unreachable now may become reachable later.

        Raises ConfigurationError if the server is not a Redis 8.
        """
        store = cls(url, **options)
        try:
            await store._connection.call("PING")
        except StoreUnavailable as error:
            log.warning("Collections are unavailable for now: %s.", error)
        store._sweeper = asyncio.create_task(store._sweep(), name="sweep expired items out of Redis")
        return store

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        await self._connection.close()

    async def create(self, name: str, *, dim: int, fingerprint: str, shards: int | None = None) -> CollectionInfo:
        record = orjson.dumps(
            {
                "id": secrets.token_hex(6),
                "dim": dim,
                "fingerprint": fingerprint,
                "created_at": time.time(),
                "shards": shards or await self._connection.count_servers(),
            }
        )
        collection = self._parse(name, record)
        # Opened before the name exists: a process that finds the name can use the shards.
        await gather_all(shard.open() for shard in collection.shards)
        if not await self._connection.call("HSETNX", TABLE, name, record):
            await gather_all(shard.clear() for shard in collection.shards)
            existing = await self._look_up(name)
            check_kind(name, (existing.dim, existing.fingerprint), (dim, fingerprint))
        return await self.describe(name)

    async def drop(self, name: str) -> None:
        if (record := await self._connection.script(DROP, [TABLE, DROPPED], name)) is None:
            raise no_collection(name)
        await self._clear(record)

    async def list(self) -> Sequence[CollectionInfo]:
        records = await self._connection.call("HGETALL", TABLE)
        infos = []
        for name, record in sorted(records.items()):
            gone = None
            while record not in (None, gone):
                try:
                    infos.append(await self._measure(self._parse(name.decode(), record)))
                    break
                except Gone:  # dropped or replaced meanwhile
                    gone, record = record, await self._connection.call("HGET", TABLE, name)
        return infos

    async def count_collections(self) -> int:
        return int(await self._connection.call("HLEN", TABLE))

    async def describe(self, name: str) -> CollectionInfo:
        self._known.pop(name, None)
        return await self._run_on(name, self._measure)

    async def fingerprint(self, name: str) -> str:
        return (await self._look_up(name)).fingerprint

    async def swap(self, name: str, replacement: str) -> None:
        """Replaces the collection. Calls that began earlier may still change the old one: pause writers before."""
        missing, old = await self._connection.script(SWAP, [TABLE, DROPPED], name, replacement)
        if missing:
            raise no_collection(missing.decode())
        await self._clear(old)

    async def put(self, name: str, items: Sequence[Item]) -> Changes:
        merged = {item.id: item for item in merge_items(items)}

        async def put(collection: _ShardedCollection) -> Changes:
            check_dim(name, collection.dim, [item.vector for item in items])
            now = time.time()
            parts = collection.by_shard([*merged])
            changes = await gather_all(
                shard.put([merged[item_id] for item_id in ids], now) for shard, ids in parts.items()
            )
            return Changes(sum(change.added for change in changes), sum(change.replaced for change in changes))

        return await self._run_on(name, put)

    async def get(self, name: str, ids: Sequence[str]) -> dict[str, Item]:
        async def get(collection: _ShardedCollection) -> dict[str, Item]:
            items = await self._read(collection, ids, with_vectors=True)
            return {item_id: items[item_id] for item_id in ids if item_id in items}

        return await self._run_on(name, get)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        async def delete(collection: _ShardedCollection) -> int:
            now, parts = time.time(), collection.by_shard(ids)
            return sum(await gather_all(shard.delete(part, now) for shard, part in parts.items()))

        return await self._run_on(name, delete)

    async def delete_where(self, name: str, condition: Filter) -> int:
        async def delete(collection: _ShardedCollection) -> int:
            now = time.time()
            return sum(await gather_all(shard.delete_where(condition, now) for shard in collection.shards))

        return await self._run_on(name, delete)

    async def page(self, name: str, *, after: str | None = None, limit: int, with_vectors: bool = False) -> Page:
        """Returns a page in the order of the ids' bytes; `next` is `>` and the last id."""
        if after is not None and not after.startswith(">"):
            raise invalid_cursor(after)
        start = None if after is None else after[1:].encode()

        async def page(collection: _ShardedCollection) -> Page:
            walked = await gather_all(shard.walk(start, limit + 1) for shard in collection.shards)
            ids = [item_id.decode() for item_id in sorted(item_id for part in walked for item_id in part)]
            items = await self._read(collection, ids[:limit], with_vectors=with_vectors)
            return Page(
                [items[item_id] for item_id in ids[:limit] if item_id in items],
                ">" + ids[limit - 1] if len(ids) > limit else None,
            )

        return await self._run_on(name, page)

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
        async def search_one(collection: _ShardedCollection, query: bytes) -> Sequence[Match]:
            search = Search(query, top_k, least, filter, with_vectors, time.time())
            return await search.run(collection.shards)

        async def search(collection: _ShardedCollection) -> Sequence[Sequence[Match]]:
            check_dim(name, collection.dim, [*queries])
            return await gather_all(search_one(collection, query.tobytes()) for query in np.asarray(queries, "<f4"))

        least = -2.0 if min_score is None else min_score  # below every cosine
        return await self._run_on(name, search)

    async def _run_on(self, name: str, work: Callable[[_ShardedCollection], Awaitable[Answer]]) -> Answer:
        """Runs work on the collection of that name, again if the collection was replaced meanwhile."""
        gone = None
        while (collection := self._known.get(name) or await self._look_up(name)).record != gone:
            try:
                return await work(collection)
            except Gone:
                gone = collection.record
                self._known.pop(name, None)
        # A drop changes the table before it removes shards, so this loss was not a drop.
        raise StoreUnavailable(f"Redis has lost part of the collection {name}: drop it, or restore Redis")

    async def _look_up(self, name: str) -> _ShardedCollection:
        if (record := await self._connection.call("HGET", TABLE, name)) is None:
            self._known.pop(name, None)
            raise no_collection(name)
        known = self._known.get(name)
        if known is None or known.record != record:
            known = self._known[name] = self._parse(name, record)
        return known

    def _parse(self, name: str, record: bytes) -> _ShardedCollection:
        facts = orjson.loads(record)
        tags = _make_tags(facts["id"], facts["shards"])
        shards = tuple(Shard(self._connection, tag, *self._exact_limits) for tag in tags)
        return _ShardedCollection(name, record, facts["dim"], facts["fingerprint"], facts["created_at"], shards)

    async def _measure(self, collection: _ShardedCollection) -> CollectionInfo:
        sizes = await gather_all(shard.measure() for shard in collection.shards)
        count, size = (sum(part) for part in zip(*sizes, strict=True))
        return CollectionInfo(
            collection.name, count, collection.dim, collection.fingerprint, size, collection.created_at
        )

    async def _read(self, collection: _ShardedCollection, ids: Sequence[str], *, with_vectors: bool) -> dict[str, Item]:
        places = [(collection.shard_of(item_id), item_id.encode()) for item_id in ids]
        items = await read_items(places, time.time(), with_vectors=with_vectors)
        return {item.id: item for item in items.values()}

    async def _clear(self, record: bytes) -> None:
        await gather_all(shard.clear() for shard in self._parse("", record).shards)
        await self._connection.call("SREM", DROPPED, record)

    async def _sweep(self) -> None:
        """Sweeps until it is cancelled. One process at a time does, because each takes half of Redis' time."""
        while True:
            await asyncio.sleep(self._sweep_every_s)
            # Callers of the store report an unreachable Redis. A lock that is not released expires.
            with contextlib.suppress(DanmakuError, Gone):
                if await self._connection.script(LOCK_SWEEP, [SWEEPER], 2 * SWEEP_FOR_S):
                    await self._sweep_once(time.monotonic() + SWEEP_FOR_S)
                    await self._connection.call("DEL", SWEEPER)

    async def _sweep_once(self, deadline: float) -> None:
        """Removes shards that a dropping process left behind, and expired items."""
        for record in await self._connection.call("SMEMBERS", DROPPED):
            await self._clear(record)
        for name, record in (await self._connection.call("HGETALL", TABLE)).items():
            for shard in self._parse(name.decode(), record).shards:
                removed = True
                while removed and (started := time.monotonic()) < deadline:
                    removed = await shard.sweep(time.time())
                    await asyncio.sleep(time.monotonic() - started)  # leaves Redis to others for as long


def _make_tags(collection_id: str, shards: int) -> Iterator[str]:
    """Yields hash tags that put the shards into evenly spaced slots, hence on different servers."""
    for number in range(shards):
        slots = range(number * SLOTS // shards, (number + 1) * SLOTS // shards)
        yield next(
            tag for attempt in numbers() if key_slot((tag := f"{collection_id}:{number}:{attempt}").encode()) in slots
        )
