"""A process that changes a store of collections until it is killed: `python writing.py URL FIRST`.

Some tasks make steps at the same time, each its own danmaku from step FIRST on, and a line `TASK STEP` says that a step
is done. `made_by` tells what a task's steps leave behind.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from service.stores.base import Item, Store
from service.stores.open import open_store
from service.stores.sqlite import index
from service.stores.sqlite import maintenance as tending
from service.vectors import unit

COLLECTION, DIM, TASKS, ITEMS = "danmaku", 16, 4, 10


def vector_of(text: str) -> np.ndarray:
    return unit(np.random.default_rng(list(text.encode())).standard_normal((1, DIM)).astype(np.float32))[0]


def put_by(task: int, step: int) -> dict[str, str]:
    """Ids and texts: some new ones, and one that every step replaces."""
    return {f"{task} {step} {n}": f"{task} {step} {n} 草" for n in range(ITEMS)} | {
        f"{task} last": f"{task} {step} last"
    }


def deleted_by(task: int, step: int) -> list[str]:
    return [f"{task} {step - 1} {n}" for n in range(0, ITEMS, 2)]


def deletes(step: int) -> bool:
    return step % 3 == 2


def made_by(task: int, steps: int) -> dict[str, str]:
    """Ids and texts after so many steps."""
    made: dict[str, str] = {}
    for step in range(steps):
        if deletes(step):
            for id in deleted_by(task, step):
                del made[id]
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
            await store.put(COLLECTION, [Item(id, text, vector_of(text), {}) for id, text in put.items()])
        print(task, step, flush=True)
        step += 1


async def main(url: str, first: list[int]) -> None:
    # Graphs and snapshots of them come often.
    index.EXACT_UP_TO, index.TAIL, tending.SNAPSHOT_ROWS, tending.SNAPSHOT_SHARE = 200, 20, 50, 0.0
    tending.TEND_EVERY_S = 0.01
    store = await open_store(url)
    await store.create(COLLECTION, dim=DIM, fingerprint="f0")
    await asyncio.gather(*(work(store, task, first[task]) for task in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(step) for step in sys.argv[2:]]))
