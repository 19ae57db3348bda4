"""What a cache of vectors is.

A key is the fingerprint and the text as the model's normaliser sees it: a new model never reads an old model's
vectors, and `Awsl`, `AWSL` and `awsl` are one entry. A value is the vector's bytes, little-endian float32.
Trouble inside a cache is a miss, never an error.

Chosen by URL, and imported only when chosen:

    memory://    in this process
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from service.errors import ConfigurationError
from service.metrics import Metrics


class Cache(Protocol):
    async def get_many(self, fingerprint: str, texts: Sequence[str]) -> dict[str, bytes]:
        """The vectors of those texts that are there."""

    async def set_many(self, fingerprint: str, vectors: Mapping[str, bytes]) -> None:
        """Keeps vectors by text; may forget others, or these, at any time."""


def open_cache(url: str, *, max_bytes: int, metrics: Metrics) -> Cache:
    """The cache behind a URL. Raises ConfigurationError if there is none of the kind."""
    if url == "memory://":
        from service.cache.memory import MemoryCache

        return MemoryCache(max_bytes, metrics)
    raise ConfigurationError(f"{url!r} is no cache: expected memory://")
