"""Chooses the store by URL, and imports only the chosen one.

sqlite:///PATH          a directory of this machine, for one process (sqlite://PATH is relative)
milvus://HOST:19530/DB  a Milvus, for any number of processes (milvus+tls:// with TLS)
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
    if scheme in ("milvus", "milvus+tls"):
        from service.stores.milvus.store import MilvusStore

        return await MilvusStore.open(url)
    # The rest is not shown: it may contain a password.
    name = f" {scheme}://" if scheme.isalpha() and rest else ""
    raise ConfigurationError(f"invalid collections{name}; expected sqlite:///PATH or milvus://HOST:19530/DATABASE")
