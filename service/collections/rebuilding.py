"""A collection's texts, embedded anew by the model of today, while it goes on being read.

    name ── page by page ──▶ embed ──▶ name.aside ── when a whole pass finds nothing to do ──▶ takes the name

Nothing that is acknowledged is lost. The collection itself stays the truth until the end: what is aside is only made
after it, so a rebuild that breaks off is gone on with by the next. As its fingerprint is not the model's, nothing is
added to it here meanwhile; what is deleted here is deleted aside, too; and what gateways of the former model still add
to a shared store is found by the next pass. They have to be gone by the end, as their model is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from service.embedder import Embedder
from service.errors import Conflict, ModelChanged, NotFound, Overloaded, TextError
from service.stores.base import Item, Store
from service.vectors import unit

STEP_ITEMS = 256
REASONS = 100  # told of those that were refused


@dataclass(frozen=True, slots=True)
class Progress:
    done: int  # items looked at in this pass
    total: int
    is_finished: bool = False
    lost: int = 0  # items that the model of today cannot embed: they are not taken over
    reasons: Sequence[tuple[str, TextError]] = ()  # id and reason of the first of them


class Gate:
    """Changes of a collection go through together; a step of its rebuild goes alone."""

    def __init__(self) -> None:
        self.is_rebuilt = False
        self._inside = 0
        self._alone = asyncio.Lock()
        self._emptied = asyncio.Condition()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[bool]:
        """Gives whether a rebuild is going on."""
        async with self._alone:  # those who want to be alone hold it until they were
            self._inside += 1
        try:
            yield self.is_rebuilt
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


def aside_of(name: str) -> str:
    return f"{name}.aside"


async def rebuild(store: Store, embedder: Embedder, name: str, gate: Gate) -> AsyncGenerator[Progress, None]:
    """Raises Conflict if it is being rebuilt, ModelChanged if another model takes over in the middle."""
    if gate.is_rebuilt:
        raise Conflict(f"the collection {name} is being rebuilt already")
    model, info = embedder.model, await store.describe(name)
    if info.fingerprint == model.fingerprint:
        yield Progress(info.count, info.count, is_finished=True)
        return
    aside = aside_of(name)
    async with gate.alone():
        if gate.is_rebuilt:
            raise Conflict(f"the collection {name} is being rebuilt already")
        await _make(store, aside, model.dim, model.fingerprint)
        gate.is_rebuilt = True
    lost: dict[tuple[str, str], TextError] = {}
    try:
        has_changed = True
        while has_changed:
            has_changed, done, after = False, 0, None
            while True:
                page = await store.page(name, after=after, limit=STEP_ITEMS)
                stale = await _stale(store, aside, [item for item in page.items if (item.id, item.text) not in lost])
                if stale:
                    has_changed = True
                    fresh, refused = await _embedded(embedder, stale, model.fingerprint)
                    lost |= refused
                    async with gate.alone():
                        await _take_over(store, name, aside, fresh)
                done, after = done + len(page.items), page.next
                yield Progress(done, max(done, info.count))
                if after is None:
                    break
            has_changed |= await _remove_others(store, name, aside)
        async with gate.alone():
            await store.swap(name, aside)
    finally:
        gate.is_rebuilt = False
    reasons = [(id, error) for (id, _), error in list(lost.items())[:REASONS]]
    yield Progress(done, done, is_finished=True, lost=len(lost), reasons=reasons)


async def _make(store: Store, aside: str, dim: int, fingerprint: str) -> None:
    """One that is there of the same fingerprint is gone on with."""
    try:
        there = await store.describe(aside)
        if there.fingerprint != fingerprint:
            await store.drop(aside)
    except NotFound:
        pass
    await store.create(aside, dim=dim, fingerprint=fingerprint)


async def _stale(store: Store, aside: str, items: Sequence[Item]) -> list[Item]:
    """Those that are not aside as they are."""
    there = await store.get(aside, [item.id for item in items])
    return [item for item in items if item.id not in there or not _equal(item, there[item.id])]


def _equal(item: Item, other: Item) -> bool:
    return (item.text, item.metadata, item.expires_at, item.count) == (
        other.text,
        other.metadata,
        other.expires_at,
        other.count,
    )


async def _embedded(
    embedder: Embedder, items: Sequence[Item], fingerprint: str
) -> tuple[list[Item], dict[tuple[str, str], TextError]]:
    """With their new vectors; and why some have none, by id and text."""
    while True:
        try:
            embeddings = await embedder.embed([item.text for item in items])
            break
        except Overloaded as overloaded:  # it has the time
            await asyncio.sleep(overloaded.retry_after_s or 1)
    if embeddings.model.fingerprint != fingerprint:
        raise ModelChanged("another model has taken over in the middle; rebuild once more")
    rows = zip(items, embeddings.rows, unit(embeddings.vectors), strict=True)
    fresh = [replace(item, vector=vector) for item, row, vector in rows if row is not None]
    return fresh, {(items[error.index].id, items[error.index].text): error for error in embeddings.errors}


async def _take_over(store: Store, name: str, aside: str, items: Sequence[Item]) -> None:
    """Those that are still as they were when they were embedded."""
    now = await store.get(name, [item.id for item in items])
    kept = [item for item in items if item.id in now and _equal(item, now[item.id])]
    await store.delete(aside, [item.id for item in kept])  # else the counts would add up
    await store.put(aside, kept)


async def _remove_others(store: Store, name: str, aside: str) -> bool:
    """Removes from aside what the collection does not have any more; whether there was any."""
    after, has_changed = None, False
    while True:
        page = await store.page(aside, after=after, limit=STEP_ITEMS)
        ids = [item.id for item in page.items]
        there = await store.get(name, ids)
        if others := [id for id in ids if id not in there]:
            has_changed |= await store.delete(aside, others) > 0
        if (after := page.next) is None:
            return has_changed
