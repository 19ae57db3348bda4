"""Rebuilds a collection: re-embeds its texts with the current model while it stays readable.

    name ── page by page ──▶ embed ──▶ name.aside ── when a whole pass finds nothing to do ──▶ takes the name

No acknowledged change is lost. The collection stays the source of truth until the end, and the one aside is derived
from it, so the next rebuild continues an interrupted one. The collection's fingerprint differs from the model's, so
this gateway adds nothing to it meanwhile; items that it deletes are deleted aside, too. Items that gateways with the
former model still add to a shared store are found by the next pass; these gateways must have stopped by the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from service.embedder import Embedder
from service.errors import Conflict, ModelChanged, NotFound, TextError
from service.stores.base import Item, Store
from service.tasks import retry_overloaded
from service.vectors import unit

STEP_ITEMS = 256
REASONS = 100  # reported, of lost items


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a rebuild."""

    done: int  # items checked in this pass
    total: int
    is_finished: bool = False
    lost: int = 0  # items that the current model cannot embed; they are dropped
    reasons: Sequence[tuple[str, TextError]] = ()  # id and reason of the first lost items


class Gate:
    """Lets the changes of a collection run concurrently, and the steps of its rebuild alone."""

    def __init__(self) -> None:
        self.is_rebuilding = False
        self._inside = 0
        self._alone = asyncio.Lock()
        self._emptied = asyncio.Condition()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[bool]:
        """Yields whether a rebuild is running."""
        async with self._alone:  # a step of a rebuild holds it until it is done
            self._inside += 1
        try:
            yield self.is_rebuilding
        finally:
            self._inside -= 1
            if self._alone.locked():
                async with self._emptied:
                    self._emptied.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._alone:
            async with self._emptied:
                await self._emptied.wait_for(lambda: self._inside == 0)
            yield


def name_aside(name: str) -> str:
    return f"{name}.aside"


async def rebuild(store: Store, embedder: Embedder, name: str, gate: Gate) -> AsyncGenerator[Progress, None]:
    """Rebuilds the collection and yields its progress.

    Raises Conflict if a rebuild is running, ModelChanged if the model changes meanwhile.
    """
    if gate.is_rebuilding:
        raise Conflict(f"the collection {name} is already being rebuilt")
    model, info = embedder.model, await store.describe(name)
    if info.fingerprint == model.fingerprint:
        yield Progress(info.count, info.count, is_finished=True)
        return
    aside = name_aside(name)
    async with gate.alone():
        if gate.is_rebuilding:
            raise Conflict(f"the collection {name} is already being rebuilt")
        await _prepare_aside(store, aside, model.dim, model.fingerprint)
        gate.is_rebuilding = True
    lost: dict[tuple[str, str], TextError] = {}
    try:
        has_changed = True
        while has_changed:
            has_changed, done, after = False, 0, None
            while True:
                page = await store.page(name, after=after, limit=STEP_ITEMS)
                stale = await _find_stale(
                    store, aside, [item for item in page.items if (item.id, item.text) not in lost]
                )
                if stale:
                    has_changed = True
                    fresh, refused = await _embed(embedder, stale, model.fingerprint)
                    lost |= refused
                    async with gate.alone():
                        await _take_over(store, name, aside, fresh)
                done, after = done + len(page.items), page.next
                yield Progress(done, max(done, info.count))
                if after is None:
                    break
            has_changed |= await _remove_extra(store, name, aside)
        async with gate.alone():
            await store.swap(name, aside)
    finally:
        gate.is_rebuilding = False
    reasons = [(item_id, error) for (item_id, _), error in list(lost.items())[:REASONS]]
    yield Progress(done, done, is_finished=True, lost=len(lost), reasons=reasons)


async def _prepare_aside(store: Store, aside: str, dim: int, fingerprint: str) -> None:
    """Creates the collection aside, or keeps one with the same fingerprint, which an interrupted rebuild left."""
    try:
        if (await store.describe(aside)).fingerprint != fingerprint:
            await store.drop(aside)
    except NotFound:
        pass
    await store.create(aside, dim=dim, fingerprint=fingerprint)


async def _find_stale(store: Store, aside: str, items: Sequence[Item]) -> list[Item]:
    """Returns the items that are missing aside, or differ there."""
    copies = await store.get(aside, [item.id for item in items])
    return [item for item in items if item.id not in copies or not _equal(item, copies[item.id])]


def _equal(item: Item, other: Item) -> bool:
    return (item.text, item.metadata, item.expires_at, item.count) == (
        other.text,
        other.metadata,
        other.expires_at,
        other.count,
    )


async def _embed(
    embedder: Embedder, items: Sequence[Item], fingerprint: str
) -> tuple[list[Item], dict[tuple[str, str], TextError]]:
    """Returns the items with new vectors, and the errors of those without one, by id and text."""
    embeddings = await retry_overloaded(lambda: embedder.embed([item.text for item in items]))
    if embeddings.model.fingerprint != fingerprint:
        raise ModelChanged("the model changed during the rebuild; start it again")
    rows = zip(items, embeddings.rows, unit(embeddings.vectors), strict=True)
    fresh = [replace(item, vector=vector) for item, row, vector in rows if row is not None]
    return fresh, {(items[error.index].id, items[error.index].text): error for error in embeddings.errors}


async def _take_over(store: Store, name: str, aside: str, items: Sequence[Item]) -> None:
    """Stores aside the items that have not changed since they were read."""
    now = await store.get(name, [item.id for item in items])
    unchanged = [item for item in items if item.id in now and _equal(item, now[item.id])]
    await store.delete(aside, [item.id for item in unchanged])  # otherwise the counts would add up
    await store.put(aside, unchanged)


async def _remove_extra(store: Store, name: str, aside: str) -> bool:
    """Removes items aside that the collection no longer has; returns whether there were any."""
    after, has_changed = None, False
    while True:
        page = await store.page(aside, after=after, limit=STEP_ITEMS)
        ids = [item.id for item in page.items]
        items = await store.get(name, ids)
        if extra := [item_id for item_id in ids if item_id not in items]:
            has_changed |= await store.delete(aside, extra) > 0
        if (after := page.next) is None:
            return has_changed
