"""Measures a large collection in the embedded store: memory, disk, speed of loading, starting, adding and searching.

Vectors come from a .npy file of unit vectors [n, dim], or are drawn around random centres. The last 1,000 are the
queries; everything else is loaded. The correct results come from comparing all vectors.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from service.stores.base import Item
from service.stores.filters import Filter, parse
from service.stores.sqlite.store import SqliteStore
from service.stores.sqlite.tuning import Tuning
from service.vectors import unit

NAME, QUERIES, TOP_K = "benchmark", 1000, 10
ITEMS_A_CALL = 1000
ADDS_PER_S, ADDS_A_CALL, ADDING_S = 1000, 10, 20
FILTERS = {"half of them": {"half": 0}, "10 %": {"tenth": 0}, "1 %": {"hundredth": 0}, "0.1 %": {"thousandth": 0}}


def clustered(count: int, dim: int) -> np.ndarray:
    """Draws unit vectors around many centres in a subspace of fewer dimensions."""
    chance = np.random.default_rng(0)
    basis = chance.standard_normal((64, dim), np.float32)
    centres = chance.standard_normal((max(count // 200, 1), 64), np.float32)
    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, 50_000):
        size = min(50_000, count - start)
        inner = centres[chance.integers(0, len(centres), size)] + 0.7 * chance.standard_normal((size, 64), np.float32)
        vectors[start : start + size] = unit(inner @ basis + chance.standard_normal((size, dim), np.float32))
    return vectors


def item(number: int, vector: np.ndarray) -> Item:
    metadata = {"half": number % 2, "tenth": number % 10, "hundredth": number % 100, "thousandth": number % 1000}
    return Item(f"d{number}", f"弹幕 {number}", vector, metadata)


def true_neighbours(vectors: np.ndarray, queries: np.ndarray, step: int) -> np.ndarray:
    """Returns the exact neighbours among every step-th vector, as indices [queries, TOP_K]."""
    scores = np.full((len(queries), TOP_K), -np.inf, np.float32)
    numbers = np.zeros((len(queries), TOP_K), np.int64)
    for start in range(0, len(vectors), 20_000 * step):
        part = vectors[start : start + 20_000 * step : step]
        all_scores = np.concatenate([scores, queries @ part.T], axis=1)
        all_numbers = np.concatenate(
            [numbers, np.broadcast_to(np.arange(len(part)) * step + start, (len(queries), len(part)))], axis=1
        )
        best = np.argpartition(-all_scores, TOP_K - 1, axis=1)[:, :TOP_K]
        scores, numbers = (np.take_along_axis(each, best, axis=1) for each in (all_scores, all_numbers))
    return numbers


async def load(store: SqliteStore, vectors: np.ndarray) -> None:
    started = time.perf_counter()
    for start in range(0, len(vectors), ITEMS_A_CALL):
        part = vectors[start : start + ITEMS_A_CALL]
        await store.put(NAME, [item(number, vector) for number, vector in enumerate(part, start)])
    taken = time.perf_counter() - started
    print(f"load: {len(vectors) / taken:,.0f} items/s acknowledged, {ITEMS_A_CALL} a call")


async def wait_until_indexed(store: SqliteStore) -> None:
    """Waits until all but the tail is in the graph. Users need not wait: the tail is compared one by one."""
    started, last = time.perf_counter(), (-1, 0)
    index = store._collections[NAME].index
    while index.progress != last:
        last = index.progress
        await asyncio.sleep(2)
    print(f"graph: {last[0]:,} of {last[1]:,} vectors {time.perf_counter() - started:.0f} s after that")


async def search(
    store: SqliteStore, queries: np.ndarray, name: str, truth: np.ndarray | None, condition: Filter | None
) -> None:
    """Searches with one query at a time."""
    times, found = [], []
    for query in queries:
        started = time.perf_counter()
        (matches,) = await store.search(NAME, query[None], top_k=TOP_K, filter=condition)
        times.append(1000 * (time.perf_counter() - started))
        found.append({int(match.item.id[1:]) for match in matches})
    p50, p99 = np.percentile(times, [50, 99])
    shared = [] if truth is None else [len(mine & set(true.tolist())) for mine, true in zip(found, truth, strict=True)]
    recall = f"recall@{TOP_K} {sum(shared) / TOP_K / len(queries):.4f}, " if shared else ""
    print(f"search, {name}: {recall}p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def index_alone(store: SqliteStore, queries: np.ndarray) -> None:
    """Searches the index in one thread, without texts and event loop, as benchmarks of other engines do."""
    index, times = store._collections[NAME].index, []
    for query in queries:
        started = time.perf_counter()
        index.search(query, top_k=TOP_K, min_score=None, condition=None, now=time.time())
        times.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.percentile(times, [50, 99])
    print(f"index alone: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


async def during_adds(store: SqliteStore, queries: np.ndarray, first: int, vectors: np.ndarray) -> None:
    added, stop = 0, asyncio.Event()

    async def add() -> None:
        nonlocal added
        started = time.perf_counter()
        while not stop.is_set():
            part = [item(first + n, vectors[n % len(vectors)]) for n in range(added, added + ADDS_A_CALL)]
            await store.put(NAME, part)
            added += ADDS_A_CALL
            await asyncio.sleep(max(0.0, started + added / ADDS_PER_S - time.perf_counter()))

    adding = asyncio.create_task(add())
    started = time.perf_counter()
    rounds = []
    while time.perf_counter() < started + ADDING_S:
        rounds.append(queries[len(rounds) % len(queries)])
        await asyncio.sleep(0.01)
        if len(rounds) == len(queries):
            break
    await search(store, np.array(rounds), f"while {ADDS_PER_S:,} a second are added", None, None)
    stop.set()
    await adding
    print(f"  (it was {added / (time.perf_counter() - started):,.0f} a second)")
    await store.delete(NAME, [f"d{first + n}" for n in range(added)])  # another run finds what this one found


def memory() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


async def widen(store: SqliteStore, queries: np.ndarray, truth: np.ndarray, expansions: list[int]) -> None:
    """Measures recall and time by the number of visited nodes; graph.EXPANSION_SEARCH was chosen by this."""
    _, graph = store._collections[NAME].index._state
    chosen = graph._index.expansion_search
    for expansion in expansions:
        graph._index.expansion_search = expansion
        await search(store, queries, f"{expansion} nodes", truth, None)
        index_alone(store, queries)
    graph._index.expansion_search = chosen


async def bench(vectors: np.ndarray, directory: Path, exact_sizes: list[int], expansions: list[int]) -> None:
    queries, vectors = vectors[-QUERIES:], vectors[:-QUERIES]
    truths = {step: true_neighbours(vectors, queries, step) for step in (1, 2, 10, 100, 1000)}
    before = memory()
    started = time.perf_counter()
    store = await SqliteStore.open(directory)
    if await store.list():
        print(f"start from what was left: {time.perf_counter() - started:.1f} s")
    else:
        await store.create(NAME, dim=vectors.shape[1], fingerprint="benchmark")
        await load(store, vectors)
        await wait_until_indexed(store)
    print(f"memory: {memory() - before:,.0f} MiB more than before")
    await search(store, queries, "alone", truths[1], None)
    index_alone(store, queries)
    await widen(store, queries, truths[1], expansions)
    for (name, condition), step in zip(FILTERS.items(), (2, 10, 100, 1000), strict=True):
        await store.search(NAME, queries[:1], top_k=1, filter=parse(condition))  # reads the field
        await search(store, queries, f"filter that keeps {name}", truths[step], parse(condition))
    await during_adds(store, queries, len(vectors), vectors)
    started = time.perf_counter()
    await store.close()
    print(f"stop, with a snapshot: {time.perf_counter() - started:.1f} s")
    print_sizes(directory)
    started = time.perf_counter()
    store = await SqliteStore.open(directory)
    print(f"start from the snapshot: {time.perf_counter() - started:.1f} s")
    await search(store, queries, "after the start", None, None)
    await store.close()
    for size in exact_sizes:
        await compare_all(directory / f"exact-{size}", vectors[:size], queries)


def print_sizes(directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        print(f"disk: {path.name} {path.stat().st_size / 2**20:,.0f} MiB")


async def compare_all(directory: Path, vectors: np.ndarray, queries: np.ndarray) -> None:
    """Compares both ways to search: a graph pays from the size at which they are equally fast (Tuning.exact_up_to)."""
    for name, limit in (("all compared", 2**40), ("graph", 0)):
        store = await SqliteStore.open(directory / name.split()[0], Tuning(exact_up_to=limit))
        await store.create(NAME, dim=vectors.shape[1], fingerprint="benchmark")
        for start in range(0, len(vectors), ITEMS_A_CALL):
            part = vectors[start : start + ITEMS_A_CALL]
            await store.put(NAME, [item(number, vector) for number, vector in enumerate(part, start)])
        done = -1
        while store._collections[NAME].index.progress[0] != done:
            done = store._collections[NAME].index.progress[0]
            await asyncio.sleep(2)
        print(f"{len(vectors):,} items, {name}: ", end="")
        index_alone(store, queries)
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, help="unit vectors [n, dim] in NumPy's format")
    parser.add_argument("--count", type=int, default=100_000, help="how many to load [100000]")
    parser.add_argument("--dim", type=int, default=256, help="dimensions of random vectors [256]")
    parser.add_argument(
        "--directory", type=Path, help="directory of a new or existing store, which is kept; default: a temporary one"
    )
    parser.add_argument(
        "--threshold", action="store_true", help="also compare a graph with comparing all rows, at some sizes"
    )
    parser.add_argument(
        "--expansion", type=int, nargs="+", default=[], help="also search with this many visited nodes of the graph"
    )
    arguments = parser.parse_args()
    count = arguments.count + QUERIES
    if arguments.vectors:
        stored = np.load(arguments.vectors, mmap_mode="r")
        chosen = np.random.default_rng(0).permutation(len(stored))[:count]
        vectors = unit(np.asarray(stored[np.sort(chosen)], np.float32))[np.argsort(np.argsort(chosen))]
    else:
        vectors = clustered(count, arguments.dim)
    source = arguments.vectors.name if arguments.vectors else "drawn"
    print(
        f"{len(vectors) - QUERIES:,} × {vectors.shape[1]} ({source}), {platform.processor() or platform.machine()}, ",
        end="",
    )
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    directory = arguments.directory or Path(tempfile.mkdtemp())
    try:
        exact_sizes = [5_000, 10_000, 20_000, 40_000] if arguments.threshold else []
        asyncio.run(bench(vectors, directory, exact_sizes, arguments.expansion))
    finally:
        if not arguments.directory:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
