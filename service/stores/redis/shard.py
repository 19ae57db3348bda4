"""One shard of a collection in Redis: keys of one slot, hence on one server, and what is done with them.

    danmaku:{ID:NUMBER}:open      is there while the shard is; who finds it gone has an outdated idea of the collection
    danmaku:{ID:NUMBER}:vectors   vector set: id → vector as float32, fields for filters
    danmaku:{ID:NUMBER}:items     hash: id → end, count, text, metadata
    danmaku:{ID:NUMBER}:ids       sorted set of the ids alone, to walk through in their order
    danmaku:{ID:NUMBER}:ends      sorted set: id → end, of those that have one

What belongs together is changed and read by one script, which Redis carries out whole. Vectors are not quantised: with
8 bits a number, a collection of 20,000 × 256 took 45 % less, but one neighbour in a hundred was not found however hard
one looked, and exact scores would want the vectors kept a second time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson

from service.stores.base import Changes, Item
from service.stores.filters import Filter, matches
from service.stores.redis.connection import Connection, Gone
from service.stores.redis.filter import NEVER, attributes

HEADER = struct.Struct("<dQI8s")  # end, count, bytes of the text, hash of the vector
# How many vectors Redis has in view when it places a new one, or answers: more is slower and finds more.
EF_ADD, EF_SEARCH = 100, 100
FILTER_EF = 1000  # how many it looks at for a filter to match as many as were asked for
# Vectors up to which looking at every one is as quick as the index, or quick enough: 1 ms, and 15 ms. What a filter
# leaves out costs little then, while the index has to go through it.
EXACT, EXACT_FILTERED = 2000, 50_000
ITEMS_AT_A_TIME = 4  # Redis does nothing else meanwhile, and placing a vector takes it a millisecond or two
IDS_AT_A_TIME = 500

# KEYS are always all five. An item whose time is over counts as none.
OPEN = "if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('GONE') end\n"
REMOVE = """
local function remove(id)
  redis.call('VREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZREM', KEYS[5], id)
end
"""
# now, never, then of each item: id, vector, fields, value. The vector first: a full Redis refuses that before all else.
# To place a vector takes milliseconds, even where it lies already, and most of what is said has been said before.
PUT = f"""{OPEN}
local now, never, added = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
for i = 3, #ARGV, 4 do
  local id, value = ARGV[i], ARGV[i + 3]
  local old = redis.call('HGET', KEYS[3], id)
  if old and old:sub(21, 28) == value:sub(21, 28) then
    redis.call('VSETATTR', KEYS[2], id, ARGV[i + 2])
  else
    redis.call('VADD', KEYS[2], 'FP32', ARGV[i + 1], id, 'NOQUANT', 'EF', {EF_ADD}, 'SETATTR', ARGV[i + 2])
  end
  local ends, count, length = struct.unpack('<dI8I4', value)
  if old and struct.unpack('<d', old) > now then
    local _, old_count, old_length = struct.unpack('<dI8I4', old)
    if old_length == length and old:sub(29, 28 + length) == value:sub(29, 28 + length) then
      value = struct.pack('<dI8I4', ends, count + old_count, length) .. value:sub(21)
    end
  else
    added = added + 1
  end
  redis.call('HSET', KEYS[3], id, value)
  redis.call('ZADD', KEYS[4], 0, id)
  if ends < never then redis.call('ZADD', KEYS[5], ends, id) else redis.call('ZREM', KEYS[5], id) end
end
return added
"""
# now, then of each item: id, and the value that it must still have, or nothing.
DELETE = f"""{OPEN}{REMOVE}
local deleted = 0
for i = 2, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[3], ARGV[i])
  if value and (ARGV[i + 1] == '' or ARGV[i + 1] == value) then
    remove(ARGV[i])
    if struct.unpack('<d', value) > tonumber(ARGV[1]) then deleted = deleted + 1 end
  end
end
return deleted
"""
READ = f"""{OPEN}return redis.call('HMGET', KEYS[3], unpack(ARGV))"""
READ_WITH_VECTORS = f"""{OPEN}
local vectors = {{}}
for i = 1, #ARGV do
  local vector = redis.call('VEMB', KEYS[2], ARGV[i], 'RAW')
  vectors[i] = vector and vector[2]
end
return {{redis.call('HMGET', KEYS[3], unpack(ARGV)), vectors}}
"""
WALK = f"""{OPEN}return redis.call('ZRANGE', KEYS[4], ARGV[1], '+', 'BYLEX', 'LIMIT', 0, ARGV[2])"""
MEASURE = f"""{OPEN}
local bytes = 0
for i = 1, #KEYS do bytes = bytes + (redis.call('MEMORY', 'USAGE', KEYS[i]) or 0) end
return {{redis.call('ZCARD', KEYS[4]), bytes}}
"""
SWEEP = f"""{REMOVE}
local ids = redis.call('ZRANGE', KEYS[5], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
for i = 1, #ids do remove(ids[i]) end
return #ids
"""


@dataclass(frozen=True, slots=True)
class Near:
    """What a search found of a shard: scores by id, and the score below which there may be more."""

    scores: dict[bytes, float]
    floor: float


class Shard:
    """Its methods raise Gone once the collection was dropped or replaced."""

    def __init__(self, connection: Connection, tag: str) -> None:
        self._connection = connection
        self._keys = [f"danmaku:{{{tag}}}:{part}" for part in ("open", "vectors", "items", "ids", "ends")]
        self._open, self._vectors = self._keys[:2]
        self._size: int | None = None  # vectors, when last asked: to choose how to search, nothing else

    async def open(self) -> None:
        await self._connection.call("SET", self._open, "")

    async def clear(self) -> None:
        """All at once; Redis frees the memory behind its own back."""
        await self._connection.call("UNLINK", *self._keys)

    async def measure(self) -> tuple[int, int]:
        """How many items, and bytes of memory."""
        items, size = await self._script(MEASURE)
        return items, size

    async def put(self, items: Sequence[Item], now: float) -> Changes:
        """One after the other in the sense that each is done whole or not at all."""
        added = 0
        for start in range(0, len(items), ITEMS_AT_A_TIME):
            arguments: list[str | bytes] = []
            for item in items[start : start + ITEMS_AT_A_TIME]:
                vector = np.asarray(item.vector, "<f4").tobytes()
                arguments += [item.id, vector, attributes(item.metadata, item.expires_at), _value(item, vector)]
            added += await self._script(PUT, now, NEVER, *arguments)
        return Changes(added, len(items) - added)

    async def delete(self, ids: Sequence[str], now: float) -> int:
        deleted = 0
        for start in range(0, len(ids), ITEMS_AT_A_TIME):
            deleted += await self._delete([(id, "") for id in ids[start : start + ITEMS_AT_A_TIME]], now)
        return deleted

    async def delete_where(self, filter: Filter, now: float) -> int:
        """What was replaced after it had been looked at stays."""
        deleted, after = 0, None
        while ids := await self.walk(after, IDS_AT_A_TIME):
            values = zip(ids, await self._script(READ, *ids), strict=True)
            meant = [(id, value) for id, value in values if value and matches(filter, _item("", value).metadata)]
            for start in range(0, len(meant), ITEMS_AT_A_TIME):
                deleted += await self._delete(meant[start : start + ITEMS_AT_A_TIME], now)
            after = ids[-1]
        return deleted

    async def sweep(self, now: float) -> bool:
        """Removes a few of those whose time is over; False if there were none."""
        return bool(await self._script(SWEEP, now, ITEMS_AT_A_TIME))

    async def read(self, ids: Sequence[bytes], now: float, *, with_vectors: bool) -> dict[bytes, Item]:
        """Those that are there and whose time is not over."""
        found = {}
        for start in range(0, len(ids), IDS_AT_A_TIME):
            part = ids[start : start + IDS_AT_A_TIME]
            values, vectors = (
                await self._script(READ_WITH_VECTORS, *part)
                if with_vectors
                else (await self._script(READ, *part), [None] * len(part))
            )
            for id, value, vector in zip(part, values, vectors, strict=True):
                if value and HEADER.unpack_from(value)[0] > now:
                    found[id] = _item(id.decode(), value, vector)
        return found

    async def walk(self, after: bytes | None, limit: int) -> list[bytes]:
        """Ids in order."""
        ids: list[bytes] = await self._script(WALK, "-" if after is None else b"(" + after, limit)
        return ids

    async def near(self, query: bytes, *, count: int, where: str | None, is_exact: bool) -> Near:
        """The items nearest to a query of which Redis says that `where` is true; `is_exact` looks at every one."""
        if self._size is None:
            self._size = await self._connection.call("VCARD", self._vectors)
        is_exact = is_exact or self._size <= (EXACT_FILTERED if where else EXACT)
        command = ["VSIM", self._vectors, "FP32", query, "WITHSCORES", "COUNT", count]
        if is_exact:
            command += ["TRUTH"]
        else:
            command += ["EF", max(count, 0 if where else EF_SEARCH)]
        if where:
            command += ["FILTER", where, "FILTER-EF", max(count, FILTER_EF)]
        found, self._size, is_open = await self._connection.calls(
            [tuple(command), ("VCARD", self._vectors), ("EXISTS", self._open)]
        )
        if not is_open:  # asked last: what was found before was there
            raise Gone
        scores = {id: 2 * score - 1 for id, score in found.items()} if found else {}
        if len(scores) == self._size or (is_exact and len(scores) < count):
            return Near(scores, -np.inf)
        # The index can come to its end before it has found all that match: then nothing is sure.
        return Near(scores, min(scores.values()) if len(scores) >= count else np.inf)

    async def _delete(self, meant: Sequence[tuple[str | bytes, str | bytes]], now: float) -> int:
        deleted: int = await self._script(DELETE, now, *(part for pair in meant for part in pair))
        return deleted

    async def _script(self, source: str, *arguments: str | bytes | float) -> Any:
        return await self._connection.script(source, self._keys, *arguments)


def _value(item: Item, vector: bytes) -> bytes:
    ends = NEVER if item.expires_at is None else item.expires_at
    text = item.text.encode()
    header = HEADER.pack(ends, item.count, len(text), blake2b(vector, digest_size=8).digest())
    return header + text + orjson.dumps(dict(item.metadata))


def _item(id: str, value: bytes, vector: bytes | None = None) -> Item:
    ends, count, length, _ = HEADER.unpack_from(value)
    text, metadata = value[HEADER.size :][:length].decode(), orjson.loads(value[HEADER.size + length :])
    numbers = None if vector is None else np.frombuffer(vector, "<f4")
    return Item(id, text, numbers, metadata, None if ends == NEVER else ends, count)
