"""Manages collections as users see them: texts go in, texts come out, and a `Store` keeps the vectors.

An item without an id gets a hash of its text, before the model normalises it: models change, and the same danmaku must
stay the same item. So a danmaku posted a thousand times is one item with a count.

A collection belongs to one fingerprint. While the model has another one, items can be read and deleted, but not
searched or added, until the collection is rebuilt (rebuilding.py). An item that cannot be embedded is refused with the
reason and never affects the others of its request. Users' names contain no dot; names with one are internal.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from service.collections.rebuilding import Gate, Progress, name_aside, rebuild
from service.embedder import Embedder, Embeddings
from service.encoders.model import Model
from service.errors import FingerprintMismatch, InvalidRequest, ModelChanged, NotFound, StorageFull, TextError
from service.metrics import Metrics
from service.stores.base import CollectionInfo, Item, Match, Page, Store
from service.stores.filters import Filter
from service.vectors import unit

MEASURE_EVERY_S = 1.0
COUNT_EVERY_S = 10.0
NAME = re.compile("[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A danmaku to add."""

    text: str
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_at: float | None = None  # Unix time, seconds
    count: int = 1


@dataclass(frozen=True, slots=True)
class Added:
    """The outcome of an addition."""

    added: int
    replaced: int
    refused: list[TextError]  # sorted by index


@dataclass(frozen=True, slots=True)
class Observed:
    """The outcome of an observation."""

    model: Model
    vectors: np.ndarray  # [n, dim] of length 1; NaN for what was refused
    matches: Sequence[Sequence[Match]]  # of each entry, at most one
    added: Added


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The matches of each query."""

    model: Model
    matches: Sequence[Sequence[Match]]  # per query, best first
    errors: list[TextError]  # queries that could not be embedded and have no matches


def check_name(name: str) -> str:
    """Returns the name. Raises InvalidRequest if it is not a valid name of a collection."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"invalid collection name {name[:80]!r}; expected 1 to 64 of a-z, 0-9, _ and -")
    return name


def default_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Collections:
    """All collections of a store. Every method raises what the `Store` method does, and InvalidRequest for an invalid
    name.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        metrics: Metrics,
        *,
        max_collections: int | None = None,
        max_items: int | None = None,
    ) -> None:
        """`max_items` limits one collection, approximately if several gateways share a store."""
        self.store = store
        self._embedder, self._metrics = embedder, metrics
        self._max_collections, self._max_items = max_collections, max_items
        self._counts: dict[str, tuple[int, float]] = {}  # maximum number of items, and when that was known for sure
        self._measured_at = -MEASURE_EVERY_S
        self._gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()  # those in use

    async def list(self) -> list[CollectionInfo]:
        return [info for info in await self.store.list() if NAME.fullmatch(info.name)]

    async def create(self, name: str) -> CollectionInfo:
        """Creates an empty collection for the model's vectors, or returns the existing one.

        Raises CollectionExists if the existing one belongs to another model, StorageFull if there are too many.
        """
        model = self._embedder.model
        if self._max_collections is not None and await self.store.count_collections() >= self._max_collections:
            try:
                await self.store.fingerprint(check_name(name))
            except NotFound:
                raise StorageFull(
                    f"too many collections: max_collections is {self._max_collections}; drop one first"
                ) from None
        return await self.store.create(check_name(name), dim=model.dim, fingerprint=model.fingerprint)

    async def describe(self, name: str) -> CollectionInfo:
        return await self.store.describe(check_name(name))

    async def drop(self, name: str) -> None:
        async with self._gate(name).shared():
            await self.store.drop(name)
            with suppress(NotFound):
                await self.store.drop(name_aside(name))  # of an unfinished rebuild
        self._counts.pop(name, None)

    async def check(self, name: str) -> None:
        """Raises NotFound or FingerprintMismatch if `add` would."""
        await self._check_model(name)

    async def add(self, name: str, entries: Sequence[Entry]) -> Added:
        """Adds all entries but the refused ones, or none if it raises. Raises FingerprintMismatch."""
        model = await self._check_model(name)
        embeddings = await self._embedder.embed([entry.text for entry in entries])
        _check_unchanged(model, embeddings.model)
        return await self._put(name, entries, embeddings, unit(embeddings.vectors))

    async def observe(self, name: str, entries: Sequence[Entry]) -> Observed:
        """Adds as `add` does, and returns what was nearest to each entry before the addition."""
        model = await self._check_model(name)
        embeddings = await self._embedder.embed([entry.text for entry in entries])
        _check_unchanged(model, embeddings.model)
        vectors = unit(embeddings.vectors)
        has_vector = [row is not None for row in embeddings.rows]
        options = {"top_k": 1, "min_score": None, "filter": None, "with_vectors": False}
        found = iter(await self._search(name, vectors[has_vector], options))
        matches = [next(found) if has else [] for has in has_vector]
        return Observed(model, vectors, matches, await self._put(name, entries, embeddings, vectors))

    async def _put(self, name: str, entries: Sequence[Entry], embeddings: Embeddings, vectors: np.ndarray) -> Added:
        """Stores entries with their vectors [n, dim] of length 1."""
        items = [
            Item(
                default_id(entry.text) if entry.id is None else entry.id,
                entry.text,
                vector,
                entry.metadata,
                entry.expires_at,
                entry.count,
            )
            for entry, row, vector in zip(entries, embeddings.rows, vectors, strict=True)
            if row is not None
        ]
        async with self._gate(name).shared():
            await self._check_fingerprint(name, embeddings.model)  # it may have been rebuilt meanwhile
            await self._check_room(name, len(items))
            changes = await self.store.put(name, items)
        return Added(changes.added, changes.replaced, embeddings.errors)

    async def get(self, name: str, item_id: str) -> Item:
        """Returns one item. Raises NotFound if it does not exist."""
        items = await self.store.get(check_name(name), [item_id])
        if item_id not in items:
            raise NotFound(f"the collection {name} has no danmaku {item_id[:80]!r}")
        return items[item_id]

    async def page(self, name: str, *, after: str | None, limit: int) -> Page:
        return await self.store.page(check_name(name), after=after, limit=limit)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        """Deletes items by id; returns how many existed."""
        async with self._gate(name).shared() as is_rebuilding:
            if is_rebuilding:
                await self.store.delete(name_aside(name), ids)
            return await self.store.delete(name, ids)

    async def delete_where(self, name: str, condition: Filter) -> int:
        """Deletes the items that the filter matches; returns how many there were."""
        async with self._gate(name).shared() as is_rebuilding:
            if is_rebuilding:
                await self.store.delete_where(name_aside(name), condition)
            return await self.store.delete_where(name, condition)

    async def search_texts(self, name: str, texts: Sequence[str], **options: Any) -> SearchResult:
        """Finds the items nearest to each text, with the options of `Store.search`. Raises FingerprintMismatch."""
        model = await self._check_model(name)
        embeddings = await self._embedder.embed(texts)
        _check_unchanged(model, embeddings.model)
        has_vector = [row is not None for row in embeddings.rows]
        matches = iter(await self._search(name, unit(embeddings.vectors[has_vector]), options))
        return SearchResult(model, [next(matches) if has else [] for has in has_vector], embeddings.errors)

    async def search_vector(self, name: str, vector: Sequence[float], **options: Any) -> SearchResult:
        """Finds the items nearest to a vector [dim] of any length. Raises FingerprintMismatch."""
        model = await self._check_model(name)
        query = np.asarray([vector], np.float64)  # the squares may exceed float32
        if query.shape[1] != model.dim:
            raise InvalidRequest(f"invalid vector: it has {query.shape[1]} numbers; expected {model.dim}, as in {name}")
        largest = np.abs(query).max()
        if not (np.isfinite(largest) and largest > 0):
            raise InvalidRequest("invalid vector: expected finite numbers, not all of them 0")
        return SearchResult(model, await self._search(name, unit(query / largest), options), [])

    async def search_id(self, name: str, item_id: str, **options: Any) -> SearchResult:
        """Finds the items nearest to an item, without the item itself. Raises FingerprintMismatch."""
        model = await self._check_model(name)
        item = await self.get(name, item_id)
        assert item.vector is not None  # `get` returns it
        (matches,) = await self._search(name, item.vector[None], options | {"top_k": options["top_k"] + 1})
        matches = [match for match in matches if match.item.id != item_id]
        return SearchResult(model, [matches[: options["top_k"]]], [])

    def rebuild(self, name: str) -> AsyncGenerator[Progress, None]:
        """Re-embeds all texts, unless the collection has the model's fingerprint. The caller closes the generator."""
        return rebuild(self.store, self._embedder, name, self._gate(name))

    async def measure(self) -> None:
        """Updates the metrics of sizes, unless that was done a moment ago: anyone may request metrics, often."""
        if time.monotonic() < self._measured_at + MEASURE_EVERY_S:
            return
        self._measured_at = time.monotonic()
        infos = await self.list()
        self._metrics.collections.set(len(infos))
        self._metrics.collection_items.set(sum(info.count for info in infos))
        self._metrics.collection_bytes.set(sum(info.bytes for info in infos))
        self._metrics.collection_damaged.set(self.store.damaged)

    async def _check_room(self, name: str, adding: int) -> None:
        """Raises StorageFull if a collection would have more than `max_items`, expired ones included."""
        if self._max_items is None:
            return
        now = time.monotonic()
        count, known_at = self._counts.get(name, (0, -math.inf))
        if count + adding > self._max_items or now > known_at + COUNT_EVERY_S:
            count, known_at = (await self.store.describe(name)).count, now
        if count + adding > self._max_items:
            raise StorageFull(
                f"too many danmaku in {name}: it has {count}, {adding} more would be added, and max_collection_items "
                f"is {self._max_items}; nothing was stored"
            )
        self._counts[name] = count + adding, known_at

    def _gate(self, name: str) -> Gate:
        return self._gates.setdefault(check_name(name), Gate())

    async def _search(self, name: str, queries: np.ndarray, options: dict[str, Any]) -> Sequence[Sequence[Match]]:
        started = time.perf_counter()
        try:
            return await self.store.search(name, queries, **options) if len(queries) else []
        finally:
            self._metrics.search_seconds.observe(time.perf_counter() - started)

    async def _check_model(self, name: str) -> Model:
        """Returns the model. Raises FingerprintMismatch if the collection belongs to another one."""
        model = self._embedder.model
        await self._check_fingerprint(check_name(name), model)
        return model

    async def _check_fingerprint(self, name: str, model: Model) -> None:
        fingerprint = await self.store.fingerprint(name)
        if fingerprint != model.fingerprint:
            raise FingerprintMismatch(
                f"the collection {name} has vectors with the fingerprint {fingerprint}; expected {model.fingerprint}, "
                f"as the model has. `danmaku collections rebuild {name}` re-embeds its texts"
            )


def _check_unchanged(model: Model, embedded_by: Model) -> None:
    if model.fingerprint != embedded_by.fingerprint:
        raise ModelChanged("the model changed during the request; try again")
