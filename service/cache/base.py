"""Defines the interface of a cache of vectors.

A key is the fingerprint and the normalized text: a new model never reads an old model's vectors, and `Awsl`, `AWSL`
and `awsl` are one entry. A value is the vector's bytes, little-endian float32. A failure inside a cache is a miss,
never an error.

`open_cache` chooses an implementation by URL and imports only that:

    memory://               in this process
    redis://HOST:6379/0     in Redis, with the memory of this process in front of it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Cache(Protocol):
    async def get_many(
        self, fingerprint: str, texts: Sequence[str], *, vector_bytes: int | None = None
    ) -> dict[str, bytes]:
        """Returns the vectors of the texts that are cached; ignores vectors of another length than `vector_bytes`."""

    async def set_many(self, fingerprint: str, vectors: Mapping[str, bytes]) -> None:
        """Stores vectors by text; may drop others, or these, at any time."""

    async def close(self) -> None: ...
