"""Opens the cache behind a URL, and imports only that."""

from __future__ import annotations

from service.cache.base import Cache
from service.cache.memory import MemoryCache
from service.errors import ConfigurationError
from service.metrics import Metrics


def open_cache(url: str, *, max_bytes: int, ttl_s: int, number_format: str, metrics: Metrics) -> Cache:
    """The cache behind a URL. Raises ConfigurationError if there is none of the kind.

    `max_bytes` bounds what is kept in this process; `ttl_s` and `number_format` are for what is kept elsewhere.
    """
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
