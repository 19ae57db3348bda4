"""The maps of collections that were asked for last, ready to be sent.

One is drawn at a time, in a thread: a map is some 0.1 s of work, which nobody who embeds should wait for.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import numpy as np
import orjson

from service.collections.collections import Collections
from service.collections.map import draw
from service.errors import ModelChanged
from service.stores.base import CollectionInfo, Item

PAGE = 1000
MOST_MAPS = 8  # that are kept
MOST_CHARACTERS = 200  # of a text; so a map of 2,000 has some 2 MB at most
KEPT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Kept:
    of: tuple[object, ...]  # what was mapped
    until: float  # by time.monotonic()
    body: bytes


@dataclass(slots=True)
class Maps:
    """The last few that were drawn. One is drawn at a time, aside; who asks for the same meanwhile gets that one."""

    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _kept: dict[str, _Kept] = field(default_factory=dict)

    async def of(self, collections: Collections, name: str, limit: int) -> bytes:
        """A `MapBody`. It follows a change of the collection's size at once, another change within a minute.

        Raises ModelChanged if the collection was rebuilt meanwhile.
        """
        async with self._lock:
            info = await collections.describe(name)
            of = (info.created_at, info.fingerprint, info.count, limit)
            kept = self._kept.pop(name, None)
            if kept is None or kept.of != of or kept.until < time.monotonic():
                items = await _first(collections, name, limit)
                if (await collections.describe(name)).fingerprint != info.fingerprint:
                    raise ModelChanged(f"the collection {name} was rebuilt in the middle; ask again")
                body = await asyncio.to_thread(_drawn, info, items)
                kept = _Kept(of, time.monotonic() + KEPT_S, body)
            self._kept[name] = kept
            while len(self._kept) > MOST_MAPS:
                del self._kept[next(iter(self._kept))]  # the one that was asked for longest ago
            return kept.body


async def _first(collections: Collections, name: str, limit: int) -> list[Item]:
    items: list[Item] = []
    after: str | None = None
    while len(items) < limit:
        page = await collections.store.page(name, after=after, limit=min(PAGE, limit - len(items)), with_vectors=True)
        items += page.items
        if (after := page.next) is None:
            break
    return items


def _drawn(info: CollectionInfo, items: list[Item]) -> bytes:
    content: dict[str, object] = {"fingerprint": info.fingerprint, "count": info.count}
    if not items:
        content |= {"mean": [], "axes": [], "share": [], "clusters": [], "danmaku": []}
        return orjson.dumps(content)
    drawn = draw(np.stack([np.asarray(item.vector, np.float32) for item in items]))
    sizes = np.bincount(drawn.clusters).tolist()
    content |= {
        "mean": drawn.mean,
        "axes": list(drawn.axes),
        "share": [round(share, 4) for share in drawn.share],
        "clusters": [{"size": size, "centre": centre} for size, centre in zip(sizes, drawn.centres, strict=True)],
        "danmaku": [
            {"id": item.id, "text": item.text[:MOST_CHARACTERS], "x": round(x, 4), "y": round(y, 4), "cluster": cluster}
            for item, (x, y), cluster in zip(items, drawn.places.tolist(), drawn.clusters.tolist(), strict=True)
        ],
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
