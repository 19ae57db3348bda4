"""Collections as users see them: texts go in, texts come out; a `Store` keeps what is between.

An item without an id gets a hash of its text as it stands, not as the model normalises it: models change, and the same
danmaku has to stay the same item. So one that is posted a thousand times is one item with a count.

A collection belongs to one fingerprint. While the model has another one, its items can be read and deleted, but neither
searched nor added to, until it is rebuilt (rebuilding.py). An item that cannot be taken never sinks the others it came
with: it is refused, with the reason. Names hold no dot, since those with one are internal.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from service.collections.rebuilding import Gate, Progress, aside_of, rebuild
from service.embedder import Embedder
from service.encoders.model import Model
from service.errors import FingerprintMismatch, InvalidRequest, ModelChanged, NotFound, TextError
from service.metrics import Metrics
from service.stores.base import CollectionInfo, Item, Match, Page, Store
from service.stores.filters import Filter
from service.vectors import unit

NAME = re.compile("[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to become an item."""

    text: str
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_at: float | None = None  # Unix time, seconds
    count: int = 1


@dataclass(frozen=True, slots=True)
class Added:
    added: int
    replaced: int
    refused: list[TextError]  # in order of index


@dataclass(frozen=True, slots=True)
class Found:
    model: Model
    matches: Sequence[Sequence[Match]]  # of each query, best first
    errors: list[TextError]  # queries that could not be embedded, and match nothing


def check_name(name: str) -> str:
    """Raises InvalidRequest if no collection can be called so."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"{name[:80]!r} is no name of a collection; expected 1 to 64 of a-z, 0-9, _ and -")
    return name


def default_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Collections:
    """Every method raises what a Store's does, and InvalidRequest for a name that is none."""

    def __init__(self, store: Store, embedder: Embedder, metrics: Metrics) -> None:
        self.store = store
        self._embedder, self._metrics = embedder, metrics
        self._gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()  # those that somebody is at

    async def list(self) -> list[CollectionInfo]:
        return [info for info in await self.store.list() if NAME.fullmatch(info.name)]

    async def create(self, name: str) -> CollectionInfo:
        """An empty collection for the model's vectors, or the one that is there.

        Raises CollectionExists if that is another model's.
        """
        model = self._embedder.model
        return await self.store.create(check_name(name), dim=model.dim, fingerprint=model.fingerprint)

    async def describe(self, name: str) -> CollectionInfo:
        return await self.store.describe(check_name(name))

    async def drop(self, name: str) -> None:
        async with self._gate(name).shared():
            await self.store.drop(name)
            with suppress(NotFound):
                await self.store.drop(aside_of(name))  # of a rebuild that was not finished

    async def check(self, name: str) -> None:
        """Raises what `add` would for the collection's sake: NotFound or FingerprintMismatch."""
        await self._model_of(name)

    async def add(self, name: str, entries: Sequence[Entry]) -> Added:
        """Done whole, but for the refused ones, or not at all. Raises FingerprintMismatch."""
        model = await self._model_of(name)
        embeddings = await self._embedder.embed([entry.text for entry in entries])
        vectors = unit(embeddings.vectors)
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
        _check_same(model, embeddings.model)
        async with self._gate(name).shared():
            await self._check(name, model)  # it may have been rebuilt meanwhile
            changes = await self.store.put(name, items)
        return Added(changes.added, changes.replaced, embeddings.errors)

    async def get(self, name: str, id: str) -> Item:
        """Raises NotFound if there is no such item."""
        found = await self.store.get(check_name(name), [id])
        if id not in found:
            raise NotFound(f"the collection {name} has no danmaku {id[:80]!r}")
        return found[id]

    async def page(self, name: str, *, after: str | None, limit: int) -> Page:
        return await self.store.page(check_name(name), after=after, limit=limit)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        """How many there were."""
        async with self._gate(name).shared() as is_rebuilt:
            if is_rebuilt:
                await self.store.delete(aside_of(name), ids)
            return await self.store.delete(name, ids)

    async def delete_where(self, name: str, filter: Filter) -> int:
        """How many there were."""
        async with self._gate(name).shared() as is_rebuilt:
            if is_rebuilt:
                await self.store.delete_where(aside_of(name), filter)
            return await self.store.delete_where(name, filter)

    async def search_texts(self, name: str, texts: Sequence[str], **options: Any) -> Found:
        """`options`: those of `Store.search`. Raises FingerprintMismatch, as all searches do."""
        model = await self._model_of(name)
        embeddings = await self._embedder.embed(texts)
        _check_same(model, embeddings.model)
        is_there = [row is not None for row in embeddings.rows]
        found = iter(await self._search(name, unit(embeddings.vectors[is_there]), options))
        return Found(model, [next(found) if there else [] for there in is_there], embeddings.errors)

    async def search_vector(self, name: str, vector: Sequence[float], **options: Any) -> Found:
        model = await self._model_of(name)
        query = np.asarray([vector], np.float64)  # whose square may be beyond float32
        if query.shape[1] != model.dim:
            raise InvalidRequest(f"vector: it has {query.shape[1]} numbers; those of {name} have {model.dim}")
        largest = np.abs(query).max()
        if not (np.isfinite(largest) and largest > 0):
            raise InvalidRequest("vector: expected finite numbers, not all of them 0")
        return Found(model, await self._search(name, unit(query / largest), options), [])

    async def search_id(self, name: str, id: str, **options: Any) -> Found:
        """What is most like an item, itself left out."""
        model = await self._model_of(name)
        item = await self.get(name, id)
        assert item.vector is not None  # `get` brings it
        (matches,) = await self._search(name, item.vector[None], options | {"top_k": options["top_k"] + 1})
        others = [match for match in matches if match.item.id != id]
        return Found(model, [others[: options["top_k"]]], [])

    def rebuild(self, name: str) -> AsyncGenerator[Progress, None]:
        """Embeds all texts anew, unless the collection is of the model's fingerprint already. To be closed."""
        return rebuild(self.store, self._embedder, name, self._gate(name))

    async def measure(self) -> None:
        """Brings the metrics of sizes up to date."""
        infos = await self.list()
        self._metrics.collections.set(len(infos))
        self._metrics.collection_items.set(sum(info.count for info in infos))
        self._metrics.collection_bytes.set(sum(info.bytes for info in infos))

    def _gate(self, name: str) -> Gate:
        return self._gates.setdefault(check_name(name), Gate())

    async def _search(self, name: str, queries: np.ndarray, options: dict[str, Any]) -> Sequence[Sequence[Match]]:
        started = time.perf_counter()
        try:
            return await self.store.search(name, queries, **options) if len(queries) else []
        finally:
            self._metrics.search_seconds.observe(time.perf_counter() - started)

    async def _model_of(self, name: str) -> Model:
        """The model, if the collection's vectors are its. Raises FingerprintMismatch."""
        model = self._embedder.model
        await self._check(check_name(name), model)
        return model

    async def _check(self, name: str, model: Model) -> None:
        fingerprint = await self.store.fingerprint(name)
        if fingerprint != model.fingerprint:
            raise FingerprintMismatch(
                f"the vectors of the collection {name} are of the fingerprint {fingerprint}, the model's of "
                f"{model.fingerprint}; `danmaku collections rebuild {name}` embeds its texts anew"
            )


def _check_same(model: Model, other: Model) -> None:
    if model.fingerprint != other.fingerprint:
        raise ModelChanged("another model has taken over in the middle; ask again")
