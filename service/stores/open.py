"""Opens the store behind a URL, and imports only that."""

from __future__ import annotations

from pathlib import Path

from service.errors import ConfigurationError
from service.stores.base import Store


async def open_store(url: str) -> Store:
    """The store behind a URL. Raises ConfigurationError if there is none of the kind, or it cannot be opened."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest:
        from service.stores.sqlite.store import SqliteStore

        return await SqliteStore.open(Path(rest))
    if scheme in ("redis", "rediss", "unix"):
        from service.stores.redis.store import RedisStore

        return await RedisStore.open(url)
    raise ConfigurationError(f"{url!r} is no store of collections: expected sqlite:///PATH or redis://HOST:6379/0")
