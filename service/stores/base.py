"""What a store of collections is.

A collection is a named set of danmaku with a vector each; all its vectors are of one length and of one fingerprint. A
store knows vectors, not how texts become vectors, and compares no fingerprints: both are for the level above. The names
it gets have been checked there, too: letters, digits, `.`, `_` and `-`.

What every store keeps to:

* What `put`, `delete`, `create`, `drop` or `swap` did when it returns is there after a crash, and searches see it. One
  call is done whole or, when it raises, not at all; in Redis, which has no transactions over several servers, that is
  true of each item of a call.
* An item is gone at `expires_at`, whatever still lies about of it.
* A filter is exact: an item that it excludes is never returned. Only which of the matching items are the nearest may be
  approximate, in large collections.

`open_store` chooses by URL, and imports only what was chosen:

    sqlite:///PATH          a directory of this machine, for one process (sqlite://PATH is relative)
    redis://HOST:6379/0     vector sets of a Redis 8, for any number of processes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from service.errors import InvalidRequest
from service.stores.filters import Filter


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    id: str
    text: str
    vector: np.ndarray | None  # [dim] float32, length 1; None in an answer that was to come without
    metadata: Mapping[str, Any]
    expires_at: float | None = None  # Unix time, seconds
    count: int = 1  # how often the text was put under this id


@dataclass(frozen=True, slots=True)
class Match:
    item: Item
    score: float  # cosine, −1 to 1


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    name: str
    count: int  # of items; may include some that expired a moment ago
    dim: int
    fingerprint: str
    bytes: int  # about what it takes on disk, or of Redis' memory
    created_at: float  # Unix time, seconds


@dataclass(frozen=True, slots=True)
class Changes:
    added: int
    replaced: int


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Item]
    next: str | None  # what to ask with for the following page; None: this was the last


class Store(Protocol):
    """Every method raises NotFound if there is no such collection, StorageFull if there is no room for a change, and
    StoreUnavailable if the store is closing or cannot be reached.
    """

    async def create(self, name: str, *, dim: int, fingerprint: str, shards: int | None = None) -> CollectionInfo:
        """An empty collection, or the one that is there. Raises CollectionExists if that has another dim or
        fingerprint. `shards`: over how many keys a distributed store spreads it; others pay no heed.
        """

    async def drop(self, name: str) -> None: ...

    async def list(self) -> Sequence[CollectionInfo]:
        """All of them, internal names included, in order of name."""

    async def describe(self, name: str) -> CollectionInfo: ...

    async def fingerprint(self, name: str) -> str:
        """That of `describe`, without measuring anything, since every addition and every search asks for it."""

    async def swap(self, name: str, replacement: str) -> None:
        """`replacement` takes the place of `name`, whose items are dropped. There is no moment without `name`."""

    async def put(self, name: str, items: Sequence[Item]) -> Changes:
        """Adds items, or replaces those of the same id. Where the text is the same, the counts add up.

        Of several with one id in a call the last one stays. Raises InvalidRequest for a vector of another length.
        """

    async def get(self, name: str, ids: Sequence[str]) -> dict[str, Item]:
        """Those that are there, with their vectors."""

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        """How many there were."""

    async def delete_where(self, name: str, filter: Filter) -> int: ...

    async def search(
        self,
        name: str,
        queries: np.ndarray,
        *,
        top_k: int,
        min_score: float | None = None,
        filter: Filter | None = None,
        with_vectors: bool = False,
    ) -> Sequence[Sequence[Match]]:
        """The nearest items to each of the unit vectors [q, dim], best first; equal scores in any order.

        Raises InvalidRequest for queries of another length.
        """

    async def page(self, name: str, *, after: str | None = None, limit: int, with_vectors: bool = False) -> Page:
        """Walks through all items in an order of the store's. Whatever is added or removed meanwhile, each item that
        stays is seen once. Raises InvalidRequest if `after` is not the `next` of a page.
        """

    async def close(self) -> None:
        """Ends what is being written. What comes later raises StoreUnavailable."""


def check_dim(name: str, dim: int, vectors: Sequence[np.ndarray | None]) -> None:
    """Raises InvalidRequest if one of the vectors is not of the collection's length."""
    for vector in vectors:
        length = 0 if vector is None else vector.shape[-1]
        if length != dim:
            raise InvalidRequest(f"a vector of {length} numbers, where the collection {name} has vectors of {dim}")
