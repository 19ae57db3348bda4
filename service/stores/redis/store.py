"""Collections in Redis 8: shared by any number of processes, spread over a cluster if it is one.

A collection is cut into shards, by a hash of an item's id; each is a vector set with what belongs to it, in one slot
(`redis_shard.py`). Slots are chosen so that shards lie evenly over all of them, hence over the servers. A search asks
all shards at once and merges: what it returns is what one shard with everything would.

A table says which shards a name stands for, so that to replace a collection is to change one line of it. A process
keeps what it read there, and every script looks whether its shard is still `open`: if not, the table is read again. So
all see each other's changes at once, and nobody asks for the table on every call.

What was put is as durable as that Redis is configured to be (`appendonly yes`, `appendfsync always` to lose nothing).
Each item is put whole or not at all; a call that fails half-way has put some of its items, since a cluster has no
transactions over several servers. Expired items are removed by a sweep that takes Redis half of its time at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count as numbers
from typing import TypeVar

import numpy as np
import orjson
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from service.errors import CollectionExists, DanmakuError, InvalidRequest, NotFound, StoreUnavailable
from service.stores.base import Changes, CollectionInfo, Item, Match, Page, check_dim
from service.stores.filters import Filter
from service.stores.redis.connection import Connection, Gone
from service.stores.redis.search import Search, all_of, read
from service.stores.redis.shard import Shard

log = logging.getLogger("danmaku")
Answer = TypeVar("Answer")

TABLE = "danmaku:{collections}"  # hash: name → which shards
DROPPED = "danmaku:{collections}:dropped"  # set of what was in the table and is still to be cleared away
SWEEPER = "danmaku:{collections}:sweeper"  # is there while somebody sweeps
SWEEP_EVERY_S, SWEEP_FOR_S = 1.0, 5

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
# Even in a full Redis, for to sweep makes room.
TAKE_BROOM = """#!lua flags=allow-oom
return redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class _Collection:
    name: str
    record: bytes  # as in the table
    dim: int
    fingerprint: str
    created_at: float
    shards: tuple[Shard, ...]

    def by_shard(self, ids: Sequence[str]) -> dict[Shard, list[str]]:
        parts: dict[Shard, list[str]] = {}
        for id in ids:
            parts.setdefault(self.shard_of(id), []).append(id)
        return parts

    def shard_of(self, id: str) -> Shard:
        return self.shards[int.from_bytes(blake2b(id.encode(), digest_size=8).digest()) % len(self.shards)]


class RedisStore:
    """See `Store`."""

    def __init__(self, url: str) -> None:
        self._connection = Connection(url)
        self._known: dict[str, _Collection] = {}
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str) -> RedisStore:
        """Raises ConfigurationError if the URL leads to what is no Redis 8. If it leads nowhere now, it may later."""
        store = cls(url)
        try:
            await store._connection.call("PING")
        except StoreUnavailable as error:
            log.warning("No collections yet: %s.", error)
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
                "shards": shards or await self._connection.servers(),
            }
        )
        collection = _collection(self._connection, name, record)
        # Opened before there is a name for them: whoever finds the name can use it.
        await all_of(shard.open() for shard in collection.shards)
        if not await self._connection.call("HSETNX", TABLE, name, record):
            await all_of(shard.clear() for shard in collection.shards)
            there = await self._look_up(name)
            if (there.dim, there.fingerprint) != (dim, fingerprint):
                raise CollectionExists(
                    f"the collection {name} is there, with vectors of {there.dim} numbers and fingerprint "
                    f"{there.fingerprint}; asked for were {dim} and {fingerprint}"
                )
        return await self.describe(name)

    async def drop(self, name: str) -> None:
        if (record := await self._connection.script(DROP, [TABLE, DROPPED], name)) is None:
            raise _not_found(name)
        await self._clear(record)

    async def list(self) -> Sequence[CollectionInfo]:
        records = await self._connection.call("HGETALL", TABLE)
        found = []
        for name, record in sorted(records.items()):
            gone = None
            while record not in (None, gone):
                try:
                    found.append(await self._measured(_collection(self._connection, name.decode(), record)))
                    break
                except Gone:  # dropped meanwhile, or replaced
                    gone, record = record, await self._connection.call("HGET", TABLE, name)
        return found

    async def describe(self, name: str) -> CollectionInfo:
        self._known.pop(name, None)
        return await self._on(name, self._measured)

    async def fingerprint(self, name: str) -> str:
        return (await self._look_up(name)).fingerprint

    async def swap(self, name: str, replacement: str) -> None:
        """What began before may still be about the old one: keep writers away while you copy."""
        missing, old = await self._connection.script(SWAP, [TABLE, DROPPED], name, replacement)
        if missing:
            raise _not_found(missing.decode())
        await self._clear(old)

    async def put(self, name: str, items: Sequence[Item]) -> Changes:
        last: dict[str, Item] = {}
        for item in items:
            before = last.get(item.id)
            is_same = before is not None and before.text == item.text
            last[item.id] = replace(item, count=before.count + item.count) if before and is_same else item

        async def put(collection: _Collection) -> Changes:
            check_dim(name, collection.dim, [item.vector for item in items])
            now = time.time()
            parts = collection.by_shard([*last])
            changes = await all_of(shard.put([last[id] for id in ids], now) for shard, ids in parts.items())
            return Changes(sum(change.added for change in changes), sum(change.replaced for change in changes))

        return await self._on(name, put)

    async def get(self, name: str, ids: Sequence[str]) -> dict[str, Item]:
        async def get(collection: _Collection) -> dict[str, Item]:
            found = await self._read(collection, ids, with_vectors=True)
            return {id: found[id] for id in ids if id in found}

        return await self._on(name, get)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        async def delete(collection: _Collection) -> int:
            now, parts = time.time(), collection.by_shard(ids)
            return sum(await all_of(shard.delete(part, now) for shard, part in parts.items()))

        return await self._on(name, delete)

    async def delete_where(self, name: str, filter: Filter) -> int:
        async def delete(collection: _Collection) -> int:
            now = time.time()
            return sum(await all_of(shard.delete_where(filter, now) for shard in collection.shards))

        return await self._on(name, delete)

    async def page(self, name: str, *, after: str | None = None, limit: int, with_vectors: bool = False) -> Page:
        """In the order of the ids' bytes; the place to go on is the last id, with a sign before it."""
        if after is not None and not after.startswith(">"):
            raise InvalidRequest(f"after: expected the `next` of a page, not {after[:60]!r}")
        start = None if after is None else after[1:].encode()

        async def page(collection: _Collection) -> Page:
            walked = await all_of(shard.walk(start, limit + 1) for shard in collection.shards)
            ids = [id.decode() for id in sorted(id for part in walked for id in part)]
            found = await self._read(collection, ids[:limit], with_vectors=with_vectors)
            items = [found[id] for id in ids[:limit] if id in found]
            return Page(items, ">" + ids[limit - 1] if len(ids) > limit else None)

        return await self._on(name, page)

    async def search(
        self,
        name: str,
        queries: np.ndarray,
        *,
        top_k: int,
        min_score: float | None = None,
        filter: Filter | None = None,
        with_vectors: bool = False,
    ) -> Sequence[Sequence[Match]]:
        async def nearest(collection: _Collection, query: bytes) -> Sequence[Match]:
            search = Search(query, top_k, least, filter, with_vectors, time.time())
            return await search.nearest(collection.shards)

        async def search(collection: _Collection) -> Sequence[Sequence[Match]]:
            check_dim(name, collection.dim, [*queries])
            return await all_of(nearest(collection, query.tobytes()) for query in np.asarray(queries, "<f4"))

        least = -2.0 if min_score is None else min_score  # no cosine is below
        return await self._on(name, search)

    async def _on(self, name: str, work: Callable[[_Collection], Awaitable[Answer]]) -> Answer:
        """Does it with the collection of that name; again, if another has that name by now."""
        gone = None
        while (collection := self._known.get(name) or await self._look_up(name)).record != gone:
            try:
                return await work(collection)
            except Gone:
                gone = collection.record
                self._known.pop(name, None)
        # The table is changed before shards are cleared away, so nobody did that.
        raise StoreUnavailable(f"Redis has lost a part of the collection {name}: drop it, or restore Redis")

    async def _look_up(self, name: str) -> _Collection:
        if (record := await self._connection.call("HGET", TABLE, name)) is None:
            self._known.pop(name, None)
            raise _not_found(name)
        known = self._known.get(name)
        if known is None or known.record != record:
            known = self._known[name] = _collection(self._connection, name, record)
        return known

    async def _measured(self, collection: _Collection) -> CollectionInfo:
        sizes = await all_of(shard.measure() for shard in collection.shards)
        count, size = (sum(part) for part in zip(*sizes, strict=True))
        return CollectionInfo(
            collection.name, count, collection.dim, collection.fingerprint, size, collection.created_at
        )

    async def _read(self, collection: _Collection, ids: Sequence[str], *, with_vectors: bool) -> dict[str, Item]:
        places = [(collection.shard_of(id), id.encode()) for id in ids]
        found = await read(places, time.time(), with_vectors=with_vectors)
        return {item.id: item for item in found.values()}

    async def _clear(self, record: bytes) -> None:
        await all_of(shard.clear() for shard in _collection(self._connection, "", record).shards)
        await self._connection.call("SREM", DROPPED, record)

    async def _sweep(self) -> None:
        """One process at a time: each would take Redis half of its time."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            # Whoever asks Redis for something is told that it is away. A broom not put back is others' after a while.
            with contextlib.suppress(DanmakuError, Gone):
                if await self._connection.script(TAKE_BROOM, [SWEEPER], 2 * SWEEP_FOR_S):
                    await self._sweep_once(time.monotonic() + SWEEP_FOR_S)
                    await self._connection.call("DEL", SWEEPER)

    async def _sweep_once(self, deadline: float) -> None:
        """Clears away what was dropped by somebody who did not come to it, and what has expired."""
        for record in await self._connection.call("SMEMBERS", DROPPED):
            await self._clear(record)
        for name, record in (await self._connection.call("HGETALL", TABLE)).items():
            for shard in _collection(self._connection, name.decode(), record).shards:
                removed = True
                while removed and (started := time.monotonic()) < deadline:
                    removed = await shard.sweep(time.time())
                    await asyncio.sleep(time.monotonic() - started)  # so others have Redis for as long


def _collection(connection: Connection, name: str, record: bytes) -> _Collection:
    facts = orjson.loads(record)
    shards = tuple(Shard(connection, tag) for tag in _tags(facts["id"], facts["shards"]))
    return _Collection(name, record, facts["dim"], facts["fingerprint"], facts["created_at"], shards)


def _tags(id: str, shards: int) -> Iterator[str]:
    """Hash tags that put the shards into slots at even distances, as servers of a cluster have them."""
    for number in range(shards):
        slots = range(number * SLOTS // shards, (number + 1) * SLOTS // shards)
        yield next(tag for attempt in numbers() if key_slot((tag := f"{id}:{number}:{attempt}").encode()) in slots)


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no collection {name}")
