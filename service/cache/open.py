"""Opens the cache that a URL names, and imports only that."""

from __future__ import annotations

from service.cache.base import Cache
from service.cache.memory import MemoryCache
from service.errors import ConfigurationError
from service.metrics import Metrics


def open_cache(url: str, *, max_bytes: int, ttl_s: int, number_format: str, metrics: Metrics) -> Cache:
    """Opens the cache that a URL names. Raises ConfigurationError for an invalid URL.

    `max_bytes` limits the memory in this process; `ttl_s` and `number_format` apply to Redis.
    """
    memory = MemoryCache(max_bytes, metrics)
    if url == "memory://":
        return memory
    if url.startswith(("redis://", "rediss://", "unix://")):
        from service.cache.redis import RedisCache
        from service.cache.tiered import TieredCache

        return TieredCache(memory, RedisCache(url, metrics, ttl_s=ttl_s, number_format=number_format))
    scheme, separator, _ = url.partition("://")
    named = f" {scheme}://" if separator and scheme.isalpha() else ""  # not the rest: it may contain a password
    raise ConfigurationError(f"invalid cache{named}: expected memory:// or redis://HOST:PORT/DATABASE")
