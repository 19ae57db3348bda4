"""What a cache of vectors is.

A key is the fingerprint and the text as the model's normaliser sees it: a new model never reads an old model's
vectors, and `Awsl`, `AWSL` and `awsl` are one entry. A value is the vector's bytes, little-endian float32.
Trouble inside a cache is a miss, never an error.

Chosen by URL, and imported only when chosen:

    memory://               in this process
    redis://HOST:6379/0     in Redis, with the memory of this process in front of it
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

    async def close(self) -> None: ...


def open_cache(url: str, *, max_bytes: int, ttl_s: int, number_format: str, metrics: Metrics) -> Cache:
    """The cache behind a URL. Raises ConfigurationError if there is none of the kind.

    `max_bytes` bounds what is kept in this process; `ttl_s` and `number_format` are for what is kept elsewhere.
    """
    from service.cache.memory import MemoryCache

    memory = MemoryCache(max_bytes, metrics)
    if url == "memory://":
        return memory
    if url.startswith(("redis://", "rediss://", "unix://")):
        from service.cache.redis import RedisCache
        from service.cache.tiered import TieredCache

        return TieredCache(memory, RedisCache(url, metrics, ttl_s=ttl_s, number_format=number_format))
    scheme, separator, _ = url.partition("://")
    what = f"{scheme}://" if separator and scheme.isalpha() else "this"  # of the URL no more: it may hold a password
    raise ConfigurationError(f"{what} is no cache: expected memory:// or redis://HOST:PORT/DATABASE")
