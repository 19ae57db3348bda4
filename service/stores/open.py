"""Chooses the store by URL, and imports only the chosen one.

sqlite:///PATH          a directory of this machine, for one process (sqlite://PATH is relative)
redis://HOST:6379/0     vector sets of a Redis 8, for any number of processes
"""

from __future__ import annotations

from pathlib import Path

from service.errors import ConfigurationError
from service.stores.base import Store


async def open_store(url: str) -> Store:
    """Opens the store behind a URL. Raises ConfigurationError if the URL is invalid or the store cannot be opened."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest:
        from service.stores.sqlite.store import SqliteStore

        return await SqliteStore.open(Path(rest))
    if scheme in ("redis", "rediss", "unix"):
        from service.stores.redis.store import RedisStore

        return await RedisStore.open(url)
    # The rest is not shown: it may contain a password.
    name = f" {scheme}://" if scheme.isalpha() and rest else ""
    raise ConfigurationError(f"invalid store of collections{name}; expected sqlite:///PATH or redis://HOST:6379/0")
