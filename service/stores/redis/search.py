"""Finds the nearest items of a collection over all its shards, in Redis.

All shards are queried at once, first with little effort: the index alone. Each result is checked against the filter and
the clock. A shard that returned as many as requested may hold more that are slightly farther, but none that score above
its worst result, its `floor`. So results above the highest floor are final. If they are too few, all shards are queried
again with more effort: with the filter as an expression, then comparing every item of the shard, then with a larger and
larger count. The last effort returns everything that matches, so the search ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from typing import TypeVar, cast

from service.stores.base import Item, Match
from service.stores.filters import Filter, matches
from service.stores.redis.filter import build_expression
from service.stores.redis.shard import Shard

Answer = TypeVar("Answer")

SPARE = 8  # requested beyond top_k, since some will have expired
FILTERED = 50  # requested at least from the index with a filter: if it finds fewer, it has missed some


@dataclass(frozen=True, slots=True)
class Search:
    """One query against all shards of a collection."""

    query: bytes  # [dim] little-endian float32
    top_k: int
    min_score: float
    condition: Filter | None
    with_vectors: bool
    now: float

    async def run(self, shards: Sequence[Shard]) -> list[Match]:
        """Returns the nearest top_k items, best first."""
        where = build_expression(self.condition, self.now)
        for count, is_filtered, is_exact in self._list_efforts():
            results = await gather_all(
                shard.find_near(self.query, count=count, where=where if is_filtered else None, is_exact=is_exact)
                for shard in shards
            )
            floor = max(result.floor for result in results)
            candidates = [
                (score, shard, item_id)
                for shard, result in zip(shards, results, strict=True)
                for item_id, score in result.scores.items()
                if score >= max(floor, self.min_score)
            ]
            candidates.sort(key=lambda candidate: -candidate[0])
            matched = await self._verify(candidates)
            if len(matched) == self.top_k or floor < self.min_score:
                return matched
        raise AssertionError("an exact search with a growing count ends")

    def _list_efforts(self) -> Iterator[tuple[int, bool, bool]]:
        """Yields the count to request, whether to use the filter, and whether to compare every item."""
        if self.condition is None:
            yield self.top_k + SPARE, False, False
        yield max(self.top_k + SPARE, FILTERED), True, False
        for power in numbers():
            yield (self.top_k + SPARE) * 8**power, True, True

    async def _verify(self, candidates: Sequence[tuple[float, Shard, bytes]]) -> list[Match]:
        """Returns the first top_k candidates that exist, have not expired and match the filter."""
        matched: list[Match] = []
        start, size = 0, self.top_k
        while start < len(candidates):
            part = candidates[start : start + size]
            start, size = start + size, 2 * size
            items = await read_items(
                [(shard, item_id) for _, shard, item_id in part], self.now, with_vectors=self.with_vectors
            )
            for score, _, item_id in part:
                item = items.get(item_id)
                if item and (self.condition is None or matches(self.condition, item.metadata)):
                    matched.append(Match(item, min(1.0, max(-1.0, score))))
                    if len(matched) == self.top_k:
                        return matched
        return matched


async def read_items(places: Sequence[tuple[Shard, bytes]], now: float, *, with_vectors: bool) -> dict[bytes, Item]:
    """Reads ids from their shards; returns the items that exist and have not expired."""
    parts: dict[Shard, list[bytes]] = {}
    for shard, item_id in places:
        parts.setdefault(shard, []).append(item_id)
    read = await gather_all(shard.read(ids, now, with_vectors=with_vectors) for shard, ids in parts.items())
    return {item_id: item for part in read for item_id, item in part.items()}


async def gather_all(work: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """Awaits all work to its end, then returns all answers or raises the first error."""
    answers = await asyncio.gather(*work, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast(list[Answer], answers)
