"""A cache of the most recently requested maps of collections, serialised.

Maps are drawn one at a time, in a thread: each takes about 0.1 s, which must not delay embedding.
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
MOST_MAPS = 8
MOST_CHARACTERS = 200  # of a text, which limits a map of 2,000 danmaku to about 2 MB
MAX_AGE_S = 60.0


@dataclass(frozen=True, slots=True)
class _CachedMap:
    source: tuple[object, ...]  # what was mapped
    until: float  # by time.monotonic()
    body: bytes


@dataclass(slots=True)
class Maps:
    """The last few maps. Concurrent requests for the same map share one drawing."""

    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _maps: dict[str, _CachedMap] = field(default_factory=dict)

    async def get(self, collections: Collections, name: str, limit: int) -> bytes:
        """Returns the JSON of a `MapBody`: current in the collection's size, and at most a minute old otherwise.

        Raises ModelChanged if the collection was rebuilt meanwhile.
        """
        async with self._lock:
            info = await collections.describe(name)
            source = (info.created_at, info.fingerprint, info.count, limit)
            entry = self._maps.pop(name, None)
            if entry is None or entry.source != source or entry.until < time.monotonic():
                items = await _read_first(collections, name, limit)
                if (await collections.describe(name)).fingerprint != info.fingerprint:
                    raise ModelChanged(f"the collection {name} was rebuilt during the request; try again")
                body = await asyncio.to_thread(_draw_body, info, items)
                entry = _CachedMap(source, time.monotonic() + MAX_AGE_S, body)
            self._maps[name] = entry
            while len(self._maps) > MOST_MAPS:
                del self._maps[next(iter(self._maps))]  # the least recently requested
            return entry.body


async def _read_first(collections: Collections, name: str, limit: int) -> list[Item]:
    items: list[Item] = []
    after: str | None = None
    while len(items) < limit:
        page = await collections.store.page(name, after=after, limit=min(PAGE, limit - len(items)), with_vectors=True)
        items += page.items
        if (after := page.next) is None:
            break
    return items


def _draw_body(info: CollectionInfo, items: list[Item]) -> bytes:
    content: dict[str, object] = {"fingerprint": info.fingerprint, "count": info.count}
    if not items:
        content |= {"mean": [], "axes": [], "share": [], "clusters": [], "danmaku": []}
        return orjson.dumps(content)
    drawing = draw(np.stack([np.asarray(item.vector, np.float32) for item in items]))
    sizes = np.bincount(drawing.clusters).tolist()
    content |= {
        "mean": drawing.mean,
        "axes": list(drawing.axes),
        "share": [round(share, 4) for share in drawing.share],
        "clusters": [{"size": size, "centre": centre} for size, centre in zip(sizes, drawing.centres, strict=True)],
        "danmaku": [
            {"id": item.id, "text": item.text[:MOST_CHARACTERS], "x": round(x, 4), "y": round(y, 4), "cluster": cluster}
            for item, (x, y), cluster in zip(items, drawing.places.tolist(), drawing.clusters.tolist(), strict=True)
        ],
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
