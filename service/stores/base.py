"""Defines the protocol of a store of collections, and the types that it takes and returns.

A collection is a named set of danmaku with a vector each; all its vectors have one length and one fingerprint. A store
handles vectors only: the layer above turns texts into vectors, compares fingerprints and checks names, which consist of
letters, digits, `.`, `_` and `-`.

Every store guarantees:

* Once `put`, `delete`, `create`, `drop` or `swap` returns, its effect survives a crash and this store's searches see
  it; those of other gateways that share a Milvus do so a moment later. A call takes effect completely or, if it raises,
  not at all.
* An item is gone at `expires_at`, even if its data is still stored.
* Filters are exact: an excluded item is never returned. In large collections, which matching items are the nearest may
  be approximate.

`open.py` chooses the implementation by URL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from service.errors import CollectionExists, InvalidRequest, NotFound
from service.stores.filters import Filter

MAX_COUNT = 2**31  # of an item


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    id: str
    text: str
    vector: np.ndarray | None  # [dim] float32, length 1; None in an answer without vectors
    metadata: Mapping[str, Any]
    expires_at: float | None = None  # Unix time, seconds
    count: int = 1  # how often this text was put under this id


@dataclass(frozen=True, slots=True)
class Match:
    item: Item
    score: float  # cosine, −1 to 1


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    name: str
    count: int  # of items; may include some that have just expired
    dim: int
    fingerprint: str
    bytes: int  # estimate: on disk, or in the server's memory
    created_at: float  # Unix time, seconds


@dataclass(frozen=True, slots=True)
class Changes:
    added: int
    replaced: int


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Item]
    next: str | None  # pass it as `after` for the next page; None: this was the last


class Store(Protocol):
    """Every method raises NotFound if the collection does not exist, StorageFull if there is no room for a change, and
    StoreUnavailable if the store is closing or cannot be reached.
    """

    @property
    def damaged(self) -> int:
        """Items that are left out of searches because they are damaged in storage."""

    async def create(self, name: str, *, dim: int, fingerprint: str) -> CollectionInfo:
        """Creates an empty collection, or returns the existing one.

        Raises CollectionExists if the existing one has another dim or fingerprint.
        """

    async def drop(self, name: str) -> None: ...

    async def list(self) -> Sequence[CollectionInfo]:
        """Returns all collections, including internal ones, sorted by name."""

    async def count_collections(self) -> int:
        """Returns the number of collections, including internal ones, without measuring any."""

    async def describe(self, name: str) -> CollectionInfo: ...

    async def fingerprint(self, name: str) -> str:
        """Returns the fingerprint alone, without measuring anything: every addition and search needs it."""

    async def swap(self, name: str, replacement: str) -> None:
        """Drops the items of `name` and gives its name to `replacement`. `name` exists at every moment."""

    async def put(self, name: str, items: Sequence[Item]) -> Changes:
        """Adds items, or replaces those with the same id. If the text is the same, the counts add up.

        Of several items with one id in a call the last one wins. Raises InvalidRequest for a vector of another length.
        """

    async def get(self, name: str, ids: Sequence[str]) -> dict[str, Item]:
        """Returns the existing items by id, with their vectors."""

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        """Deletes items by id; returns how many existed."""

    async def delete_where(self, name: str, condition: Filter) -> int:
        """Deletes the items that the filter matches; returns how many there were."""

    async def search(
        self,
        name: str,
        queries: np.ndarray,
        *,
        top_k: int,
        min_score: float | None = None,
        filter: Filter | None = None,  # noqa: A002 -- as in a request
        with_vectors: bool = False,
    ) -> Sequence[Sequence[Match]]:
        """Returns the items nearest to each of the unit vectors [q, dim], best first; equal scores in any order.

        Raises InvalidRequest for queries of another length.
        """

    async def page(self, name: str, *, after: str | None = None, limit: int, with_vectors: bool = False) -> Page:
        """Returns one page of all items, in an order that the store chooses. Each item that exists throughout is seen
        exactly once, whatever is added or removed between pages. Raises InvalidRequest if `after` is not the `next` of
        a page.
        """

    async def close(self) -> None:
        """Finishes pending writes. Later calls raise StoreUnavailable."""


def check_dim(name: str, dim: int, vectors: Sequence[np.ndarray | None]) -> None:
    """Raises InvalidRequest if a vector does not have the collection's length."""
    for vector in vectors:
        length = 0 if vector is None else vector.shape[-1]
        if length != dim:
            raise InvalidRequest(
                f"invalid vector: it has {length} numbers; expected {dim}, as in the collection {name}"
            )


def check_kind(name: str, existing: tuple[int, str], wanted: tuple[int, str]) -> None:
    """Raises CollectionExists if dim or fingerprint of an existing collection differ from those wanted."""
    if existing != wanted:
        raise CollectionExists(
            f"the collection {name} exists, with vectors of {existing[0]} numbers and fingerprint {existing[1]}; "
            f"expected {wanted[0]} and {wanted[1]}"
        )


def no_collection(name: str) -> NotFound:
    return NotFound(f"the collection {name} does not exist")


def invalid_cursor(after: str) -> InvalidRequest:
    return InvalidRequest(f"invalid after: {after[:60]!r}; expected the `next` of a page")


def merge_items(items: Sequence[Item]) -> list[Item]:
    """Returns one item per id: the last, with the counts of consecutive equal texts added up."""
    merged: dict[str, Item] = {}
    for item in items:
        before = merged.get(item.id)
        if before is not None and before.text == item.text:
            item = replace(item, count=add_counts(before.count, item.count))
        merged[item.id] = item
    return list(merged.values())


def add_counts(one: int, other: int) -> int:
    """Returns the sum of two counts, but no count that could not be added again, as an exported item is."""
    return min(one + other, MAX_COUNT)
