"""What a cache of vectors is.

A key is the fingerprint and the text as the model's normaliser sees it: a new model never reads an old model's
vectors, and `Awsl`, `AWSL` and `awsl` are one entry. A value is the vector's bytes, little-endian float32.
Trouble inside a cache is a miss, never an error.

`open_cache` chooses by URL, and imports only what was chosen:

    memory://               in this process
    redis://HOST:6379/0     in Redis, with the memory of this process in front of it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Cache(Protocol):
    async def get_many(self, fingerprint: str, texts: Sequence[str]) -> dict[str, bytes]:
        """The vectors of those texts that are there."""

    async def set_many(self, fingerprint: str, vectors: Mapping[str, bytes]) -> None:
        """Keeps vectors by text; may forget others, or these, at any time."""

    async def close(self) -> None: ...
