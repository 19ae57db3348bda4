"""One shard of a collection in Redis: keys of one slot, hence on one server, and the scripts that work on them.

    danmaku:{ID:NUMBER}:open      exists as long as the shard; if it is missing, the caller's table entry is outdated
    danmaku:{ID:NUMBER}:vectors   vector set: id → vector as float32, fields for filters
    danmaku:{ID:NUMBER}:items     hash: id → end, count, text, metadata
    danmaku:{ID:NUMBER}:ids       sorted set of the ids alone, to iterate in order
    danmaku:{ID:NUMBER}:ends      sorted set: id → end, of items that expire

Keys that belong together are changed and read by one script, which Redis runs atomically. Vectors are not quantised:
with 8 bits per number, a collection of 20,000 × 256 took 45 % less memory, but one neighbour in a hundred was not found
at any effort, and exact scores would need a second copy of the vectors.
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
from service.stores.redis.filter import NEVER, build_attributes

HEADER = struct.Struct("<dQI8s")  # end, count, bytes of the text, hash of the vector
EF_ADD, EF_SEARCH = 100, 100  # vectors Redis considers while it adds or searches: more is slower and finds more
FILTER_EF = 1000  # vectors it tests against a filter at most
ITEMS_AT_A_TIME = 4  # Redis does nothing else meanwhile, and adding a vector takes a millisecond or two
IDS_AT_A_TIME = 500

# KEYS are always all five. Expired items count as missing.
OPEN = "if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('GONE') end\n"
REMOVE = """
local function remove(id)
  redis.call('VREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZREM', KEYS[5], id)
end
"""
# now, never, then for each item: id, vector, attributes, value. The vector is added first, since a full Redis refuses
# that command before anything else has changed. Adding a vector takes milliseconds even if it is the same as before,
# and most danmaku repeat earlier ones, so an unchanged vector is left alone.
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
# now, then for each item: id, and the value that it must still have, or nothing.
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
class ShardResult:
    """The result of one search of a shard: scores by id, and the score below which there may be more."""

    scores: dict[bytes, float]
    floor: float


class Shard:
    """One shard. Every method raises Gone once the collection was dropped or replaced.

    Up to `exact_up_to` vectors, comparing all is as fast as the index: 1 ms; with a filter it is fast enough up to
    `exact_filtered_up_to`: 15 ms. Items that a filter excludes cost little then, while the index has to visit them.
    """

    def __init__(
        self, connection: Connection, tag: str, exact_up_to: int = 2000, exact_filtered_up_to: int = 50_000
    ) -> None:
        self._connection = connection
        self._exact_up_to, self._exact_filtered_up_to = exact_up_to, exact_filtered_up_to
        self._keys = [f"danmaku:{{{tag}}}:{part}" for part in ("open", "vectors", "items", "ids", "ends")]
        self._open, self._vectors = self._keys[:2]
        self._size: int | None = None  # vectors at the last search; only decides how to search

    async def open(self) -> None:
        await self._connection.call("SET", self._open, "")

    async def clear(self) -> None:
        """Removes all keys at once; Redis frees their memory in the background."""
        await self._connection.call("UNLINK", *self._keys)

    async def measure(self) -> tuple[int, int]:
        """Returns the number of items and the bytes of memory."""
        items, size = await self._script(MEASURE)
        return items, size

    async def put(self, items: Sequence[Item], now: float) -> Changes:
        """Adds or replaces items. Each is stored completely or not at all."""
        added = 0
        for start in range(0, len(items), ITEMS_AT_A_TIME):
            arguments: list[str | bytes] = []
            for item in items[start : start + ITEMS_AT_A_TIME]:
                vector = np.asarray(item.vector, "<f4").tobytes()
                arguments += [item.id, vector, build_attributes(item.metadata, item.expires_at), _pack(item, vector)]
            added += await self._script(PUT, now, NEVER, *arguments)
        return Changes(added, len(items) - added)

    async def delete(self, ids: Sequence[str], now: float) -> int:
        deleted = 0
        for start in range(0, len(ids), ITEMS_AT_A_TIME):
            deleted += await self._delete([(item_id, "") for item_id in ids[start : start + ITEMS_AT_A_TIME]], now)
        return deleted

    async def delete_where(self, condition: Filter, now: float) -> int:
        """Deletes the items that the filter matches, except those replaced since they were read."""
        deleted, after = 0, None
        while ids := await self.walk(after, IDS_AT_A_TIME):
            values = zip(ids, await self._script(READ, *ids), strict=True)
            matching = [
                (item_id, value)
                for item_id, value in values
                if value and matches(condition, _unpack("", value).metadata)
            ]
            for start in range(0, len(matching), ITEMS_AT_A_TIME):
                deleted += await self._delete(matching[start : start + ITEMS_AT_A_TIME], now)
            after = ids[-1]
        return deleted

    async def sweep(self, now: float) -> bool:
        """Removes a few expired items; returns False if there were none."""
        return bool(await self._script(SWEEP, now, ITEMS_AT_A_TIME))

    async def read(self, ids: Sequence[bytes], now: float, *, with_vectors: bool) -> dict[bytes, Item]:
        """Returns the items that exist and have not expired."""
        items = {}
        for start in range(0, len(ids), IDS_AT_A_TIME):
            part = ids[start : start + IDS_AT_A_TIME]
            values, vectors = (
                await self._script(READ_WITH_VECTORS, *part)
                if with_vectors
                else (await self._script(READ, *part), [None] * len(part))
            )
            for item_id, value, vector in zip(part, values, vectors, strict=True):
                if value and HEADER.unpack_from(value)[0] > now:
                    items[item_id] = _unpack(item_id.decode(), value, vector)
        return items

    async def walk(self, after: bytes | None, limit: int) -> list[bytes]:
        """Returns up to `limit` ids after this one, in order."""
        ids: list[bytes] = await self._script(WALK, "-" if after is None else b"(" + after, limit)
        return ids

    async def find_near(self, query: bytes, *, count: int, where: str | None, is_exact: bool) -> ShardResult:
        """Returns the items nearest to a query for which the expression `where` is true; `is_exact` compares all."""
        if self._size is None:
            self._size = await self._connection.call("VCARD", self._vectors)
        is_exact = is_exact or self._size <= (self._exact_filtered_up_to if where else self._exact_up_to)
        command = ["VSIM", self._vectors, "FP32", query, "WITHSCORES", "COUNT", count]
        if is_exact:
            command += ["TRUTH"]
        else:
            command += ["EF", max(count, 0 if where else EF_SEARCH)]
        if where:
            command += ["FILTER", where, "FILTER-EF", max(count, FILTER_EF)]
        similarities, self._size, is_open = await self._connection.call_many(
            [tuple(command), ("VCARD", self._vectors), ("EXISTS", self._open)]
        )
        if not is_open:  # checked last: the shard existed during the search
            raise Gone
        scores = {item_id: 2 * similarity - 1 for item_id, similarity in (similarities or {}).items()}
        if len(scores) == self._size or (is_exact and len(scores) < count):
            return ShardResult(scores, -np.inf)
        # The index can stop before it has found all that match: then no score is final.
        return ShardResult(scores, min(scores.values()) if len(scores) >= count else np.inf)

    async def _delete(self, pairs: Sequence[tuple[str | bytes, str | bytes]], now: float) -> int:
        deleted: int = await self._script(DELETE, now, *(part for pair in pairs for part in pair))
        return deleted

    async def _script(self, source: str, *arguments: str | bytes | float) -> Any:
        return await self._connection.script(source, self._keys, *arguments)


def _pack(item: Item, vector: bytes) -> bytes:
    ends = NEVER if item.expires_at is None else item.expires_at
    text = item.text.encode()
    header = HEADER.pack(ends, item.count, len(text), blake2b(vector, digest_size=8).digest())
    return header + text + orjson.dumps(dict(item.metadata))


def _unpack(item_id: str, value: bytes, vector: bytes | None = None) -> Item:
    ends, count, length, _ = HEADER.unpack_from(value)
    text, metadata = value[HEADER.size :][:length].decode(), orjson.loads(value[HEADER.size + length :])
    numbers = None if vector is None else np.frombuffer(vector, "<f4")
    return Item(item_id, text, numbers, metadata, None if ends == NEVER else ends, count)
