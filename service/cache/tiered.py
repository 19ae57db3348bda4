"""A small fast cache in front of a large slow one: memory, then Redis.

The first one also stores what the second one finds. Both store new vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.cache.base import Cache


class TieredCache:
    """A `Cache` of two tiers."""

    def __init__(self, near: Cache, far: Cache) -> None:
        self._near, self._far = near, far

    async def get_many(
        self, fingerprint: str, texts: Sequence[str], *, vector_bytes: int | None = None
    ) -> dict[str, bytes]:
        found = await self._near.get_many(fingerprint, texts)
        if missing := [text for text in texts if text not in found]:
            fetched = await self._far.get_many(fingerprint, missing, vector_bytes=vector_bytes)
            if fetched:
                await self._near.set_many(fingerprint, fetched)
                found |= fetched
        return found

    async def set_many(self, fingerprint: str, vectors: Mapping[str, bytes]) -> None:
        await self._near.set_many(fingerprint, vectors)
        await self._far.set_many(fingerprint, vectors)

    async def close(self) -> None:
        await self._near.close()
        await self._far.close()
