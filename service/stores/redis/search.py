"""Finds the nearest items of a collection over all its shards, in Redis.

Every shard is asked at once, first with little effort: its index alone. What comes back is held against the filter and
the clock, item by item. A shard that had as many as were asked for may have more that are almost as near; down to the
worst score it gave, though, nothing is missing. So what is above the highest such `floor` is final, and if that is not
enough, all are asked again with more effort: with the filter in Redis' words, then looking at every item of the shard,
then for ever more of them. The last of these ends, with everything that matches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from typing import TypeVar, cast

from service.stores.base import Item, Match
from service.stores.filters import Filter, matches
from service.stores.redis.filter import expression
from service.stores.redis.shard import Shard

Answer = TypeVar("Answer")

SPARE = 8  # asked for beyond top_k, for some will have expired
FILTERED = 50  # asked for at least, of the index with a filter: where it finds fewer, it has missed some


@dataclass(frozen=True, slots=True)
class Search:
    query: bytes  # [dim] little-endian float32
    top_k: int
    min_score: float
    filter: Filter | None
    with_vectors: bool
    now: float

    async def nearest(self, shards: Sequence[Shard]) -> list[Match]:
        where = expression(self.filter, self.now)
        for count, is_filtered, is_exact in self._efforts():
            nears = await all_of(
                shard.near(self.query, count=count, where=where if is_filtered else None, is_exact=is_exact)
                for shard in shards
            )
            floor = max(near.floor for near in nears)
            candidates = [
                (score, shard, id)
                for shard, near in zip(shards, nears, strict=True)
                for id, score in near.scores.items()
                if score >= max(floor, self.min_score)
            ]
            candidates.sort(key=lambda candidate: -candidate[0])
            found = await self._verified(candidates)
            if len(found) == self.top_k or floor < self.min_score:
                return found
        raise AssertionError("an exact search for ever more items ends")

    def _efforts(self) -> Iterator[tuple[int, bool, bool]]:
        """How many to ask for; whether with the filter; whether to look at every item."""
        if self.filter is None:
            yield self.top_k + SPARE, False, False
        yield max(self.top_k + SPARE, FILTERED), True, False
        for power in numbers():
            yield (self.top_k + SPARE) * 8**power, True, True

    async def _verified(self, candidates: Sequence[tuple[float, Shard, bytes]]) -> list[Match]:
        """Those that are there, in time, and meant; no more are read than it takes."""
        found: list[Match] = []
        start, size = 0, self.top_k
        while start < len(candidates):
            part = candidates[start : start + size]
            start, size = start + size, 2 * size
            items = await read([(shard, id) for _, shard, id in part], self.now, with_vectors=self.with_vectors)
            for score, _, id in part:
                item = items.get(id)
                if item and (self.filter is None or matches(self.filter, item.metadata)):
                    found.append(Match(item, min(1.0, max(-1.0, score))))
                    if len(found) == self.top_k:
                        return found
        return found


async def read(places: Sequence[tuple[Shard, bytes]], now: float, *, with_vectors: bool) -> dict[bytes, Item]:
    """Those of the ids that their shards have, and whose time is not over."""
    parts: dict[Shard, list[bytes]] = {}
    for shard, id in places:
        parts.setdefault(shard, []).append(id)
    found = await all_of(shard.read(ids, now, with_vectors=with_vectors) for shard, ids in parts.items())
    return {id: item for part in found for id, item in part.items()}


async def all_of(work: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """All answers; when all have ended, the first error."""
    answers = await asyncio.gather(*work, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast(list[Answer], answers)
