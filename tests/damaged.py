"""What is done to damaged files, in a process with little memory that may end or hang."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from hostile import damage

from service.errors import DanmakuError, ModelError
from service.model_directory import open_model_directory
from service.stores.base import Item
from service.stores.sqlite.store import SqliteStore
from service.stores.sqlite.tuning import Tuning

MEMORY_BYTES = 2**30  # that damage may make a process ask for, more than it has
PATIENCE_S = 120.0
SMALL = Tuning(exact_up_to=20, tail=10, snapshot_rows=1, maintain_every_s=0.01)
ROWS, DIM = 60, 8


def limit_memory() -> None:
    logging.disable()  # damage is said, many times over
    limit = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def outcomes(work: Callable[[Path, int], str], directory: Path, seeds: Iterable[int]) -> Iterator[str]:
    """Yields what `work(directory, seed)` returns, from a process with little memory; fails if it ends or hangs."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), limit_memory) as pool:
        for seed in seeds:
            yield pool.submit(work, directory, seed).result(PATIENCE_S)


def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


async def fill(directory: Path) -> None:
    """A store with a collection, of which there is a snapshot."""
    store = await SqliteStore.open(directory, SMALL)
    await store.create("room", dim=DIM, fingerprint="f")
    await store.put("room", [Item(str(n), f"草{n}", v, {"room": n % 3}) for n, v in enumerate(vectors())])
    for _ in range(1000):
        if (directory / "1.graph").exists():
            break
        await asyncio.sleep(0.01)
    await store.close()
    assert (directory / "1.graph").exists()


def use_damaged_store(template: Path, seed: int) -> str:
    """Opens a damaged copy and uses it as a gateway does. Raises what is neither an answer nor an error of ours."""
    dice = random.Random(seed)

    async def use(directory: Path) -> str:
        try:
            store = await SqliteStore.open(directory, SMALL)
        except DanmakuError as error:
            return type(error).__name__
        failed: Counter[str] = Counter()
        try:
            for work in (
                lambda: store.search("room", vectors()[:3], top_k=3),
                lambda: store.page("room", limit=100, with_vectors=True),
                lambda: store.get("room", ["1", "2"]),
                lambda: store.put("room", [Item("new", "新", vectors()[0], {})]),
                lambda: store.delete("room", ["3"]),
                lambda: store.list(),
            ):
                try:
                    await work()  # type: ignore[no-untyped-call]
                except DanmakuError as error:
                    failed[type(error).__name__] += 1
        finally:
            await store.close()
        return ", ".join(failed) or "served"

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(shutil.copytree(template, scratch, dirs_exist_ok=True))
        for _ in range(dice.randrange(1, 4)):
            path = directory / dice.choice(("collections.db", "collections.db", "1.graph"))
            path.write_bytes(damage(path.read_bytes(), dice))
        return asyncio.run(use(directory))


def open_damaged_model(template: Path, seed: int) -> str:
    """Opens a damaged copy as an encoder does. Raises what is not a ModelError."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(shutil.copytree(template, scratch, dirs_exist_ok=True))
        path = dice.choice(sorted(each for each in directory.iterdir() if each.is_file()))
        path.write_bytes(damage(path.read_bytes(), dice))
        try:
            open_model_directory(directory)
        except ModelError as error:
            return type(error).__name__
        return "opened"
