"""A process that changes a store until it is killed: `python writing.py URL FIRST…`.

Several tasks run concurrently, each on its own danmaku from its step FIRST on. A line `TASK STEP` says that a step is
done. `made_by` computes what a task's steps leave behind.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from service.stores.base import Item, Store
from service.stores.open import open_store
from service.stores.sqlite.store import SqliteStore
from service.stores.sqlite.tuning import Tuning
from service.vectors import unit

COLLECTION, DIM, TASKS, ITEMS = "danmaku", 16, 4, 10


def vector_of(text: str) -> np.ndarray:
    return unit(np.random.default_rng(list(text.encode())).standard_normal((1, DIM)).astype(np.float32))[0]


def put_by(task: int, step: int) -> dict[str, str]:
    """Returns ids and texts: some new ones, and one that every step replaces."""
    return {f"{task} {step} {n}": f"{task} {step} {n} 草" for n in range(ITEMS)} | {
        f"{task} last": f"{task} {step} last"
    }


def deleted_by(task: int, step: int) -> list[str]:
    return [f"{task} {step - 1} {n}" for n in range(0, ITEMS, 2)]


def deletes(step: int) -> bool:
    return step % 3 == 2


def made_by(task: int, steps: int) -> dict[str, str]:
    """Returns ids and texts after this number of steps."""
    made: dict[str, str] = {}
    for step in range(steps):
        if deletes(step):
            for item_id in deleted_by(task, step):
                del made[item_id]
        else:
            made |= put_by(task, step)
    return made


async def work(store: Store, task: int, first: int) -> None:
    step = first
    while True:
        if deletes(step):
            await store.delete(COLLECTION, deleted_by(task, step))
        else:
            put = put_by(task, step)
            await store.put(COLLECTION, [Item(item_id, text, vector_of(text), {}) for item_id, text in put.items()])
        print(task, step, flush=True)
        step += 1


# Graphs and snapshots are made often.
TUNING = Tuning(exact_up_to=200, tail=20, snapshot_rows=50, snapshot_share=0.0, maintain_every_s=0.01)


async def main(url: str, first: list[int]) -> None:
    directory = url.removeprefix("sqlite://")
    store: Store = await (open_store(url) if directory == url else SqliteStore.open(Path(directory), TUNING))
    await store.create(COLLECTION, dim=DIM, fingerprint="f0")
    await asyncio.gather(*(work(store, task, first[task]) for task in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(step) for step in sys.argv[2:]]))
