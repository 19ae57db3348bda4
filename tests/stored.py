"""Items for stores of collections, and helpers to read them back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from service.stores.base import Item, Match, Store
from service.vectors import unit

DIM = 16
C = "danmaku"


async def until(condition: Callable[[], Awaitable[bool] | bool], timeout_s: float = 60) -> None:
    """Waits for a condition; fails if it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        outcome = condition()
        if await outcome if isinstance(outcome, Awaitable) else outcome:
            return
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def until_passed(moment: float) -> None:
    """Waits until the clock, by which items expire, has passed a Unix time."""
    await until(lambda: time.time() > moment)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32))


def towards(axis: int) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[axis]


def item(item_id: str, vector: np.ndarray | None = None, text: str = "草", **fields: Any) -> Item:
    return Item(item_id, text, towards(0) if vector is None else vector, **({"metadata": {}} | fields))


def items(count: int, **fields: Any) -> list[Item]:
    return [item(f"d{number}", vector, f"弹幕{number}", **fields) for number, vector in enumerate(vectors(count))]


def many(count: int, seed: int = 0) -> list[Item]:
    """Returns items with metadata for filters, in rooms of all sizes."""
    return [
        item(
            f"d{number}",
            vector,
            f"弹幕{number}",
            metadata={"number": number, "room": f"r{number % 10}", "even": number % 2 == 0}
            | ({"rare": True} if number % 97 == 0 else {}),
        )
        for number, vector in enumerate(vectors(count, seed))
    ]


def ids(matched: Sequence[Match]) -> list[str]:
    return [match.item.id for match in matched]


async def nearest(store: Store, vector: np.ndarray, **settings: Any) -> list[Match]:
    (found,) = await store.search(C, vector[None], **({"top_k": 10} | settings))
    return found


async def everything(store: Store, name: str = C) -> dict[str, Item]:
    found: dict[str, Item] = {}
    after = None
    while True:
        page = await store.page(name, after=after, limit=7, with_vectors=True)
        assert len(page.items) <= 7
        assert not found.keys() & {item.id for item in page.items}, "seen twice"
        found |= {item.id: item for item in page.items}
        if (after := page.next) is None:
            return found


def same(stored: Item, put: Item) -> bool:
    assert stored.vector is not None and put.vector is not None
    np.testing.assert_allclose(stored.vector, put.vector, atol=1e-3)
    assert stored.vector.dtype == np.float32
    return (stored.id, stored.text, stored.metadata, stored.expires_at, stored.count) == (
        put.id,
        put.text,
        put.metadata,
        put.expires_at,
        put.count,
    )


def truly_nearest(among: Sequence[Item], query: np.ndarray, top_k: int = 10) -> list[str]:
    return [item.id for item in sorted(among, key=lambda item: -float(item.vector @ query))[:top_k]]
