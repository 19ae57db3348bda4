"""Compares the stores of collections in one run: loading, searching, adding, expiring, and recovery after kill -9.

Vectors come from a .npy file of unit vectors [n, dim], with their texts from a file of lines, or are random. The last
1,000 are the queries; everything else is loaded. Milvus is started for this, on loopback, with the program of
`make milvus`, and killed; the embedded store is closed and reopened.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))  # for the servers

from processes import running_milvus  # noqa: E402
from stores import FILTERS, NAME, QUERIES, TOP_K, clustered, true_neighbours  # noqa: E402

from service.errors import DanmakuError  # noqa: E402
from service.stores.base import Item, Store  # noqa: E402
from service.stores.filters import Filter, parse  # noqa: E402
from service.stores.open import open_store  # noqa: E402
from service.vectors import unit  # noqa: E402

ITEMS_A_CALL = 1000
ADDS_PER_S, ADDS_A_CALL, ADDING_S = 1000, 10, 20
EXPIRING = 100_000


class Subject:
    """A measured store, and where it runs."""

    def __init__(
        self,
        name: str,
        url: str,
        process: Callable[[], psutil.Process],
        folder: Path,
        texts: list[str],
        restart: Callable[[], None] | None = None,
    ) -> None:
        self.name, self.url, self.process, self.folder, self.texts = name, url, process, folder, texts
        self.restart = restart
        self.rows: dict[str, str] = {}
        self.store: Any = None

    def note(self, row: str, figure: str) -> None:
        self.rows[row] = figure
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {row}: {figure}", flush=True)

    def item(self, number: int, vector: np.ndarray, **fields: Any) -> Item:
        metadata = {"half": number % 2, "tenth": number % 10, "hundredth": number % 100, "thousandth": number % 1000}
        return Item(f"d{number}", self.texts[number % len(self.texts)], vector, metadata, **fields)

    def memory(self) -> str:
        return f"{self.process().memory_info().rss / 2**20:,.0f} MiB"

    def disk(self) -> str:
        size = sum(path.stat().st_blocks * 512 for path in self.folder.rglob("*") if path.is_file())
        return f"{size / 2**20:,.0f} MiB"


async def measure(subject: Subject, vectors: np.ndarray, queries: np.ndarray, truths: dict[int, np.ndarray]) -> None:
    subject.note("memory, empty", subject.memory())
    subject.store = store = await open_store(subject.url)
    await store.create(NAME, dim=vectors.shape[1], fingerprint="benchmark")
    await store.put(NAME, [subject.item(0, vectors[0])])  # makes a collection of Milvus, which takes seconds
    taken = await load(subject, vectors)
    subject.note("load acknowledged", f"{len(vectors) / taken:,.0f} items/s")
    await search(subject, queries, "search right after it", truths[1], None)
    started = time.perf_counter()
    await wait_until_indexed(store)
    subject.note("index whole after that", f"{time.perf_counter() - started:.0f} s")
    subject.note("memory; disk", f"{subject.memory()}; {subject.disk()}")
    await search(subject, queries, "search alone", truths[1], None)
    for (name, condition), step in zip(FILTERS.items(), (2, 10, 100, 1000), strict=True):
        await store.search(NAME, queries[:1], top_k=1, filter=parse(condition))  # the embedded store reads the field
        await search(subject, queries, f"filter keeps {name}", truths[step], parse(condition))
    await search(
        subject, queries[:300], "filter by bounds keeps 1 %", truths[100][:300], parse({"hundredth": {"lt": 1}})
    )
    await during_adds(subject, queries, len(vectors), vectors)
    await visibility(subject, vectors.shape[1])
    started = time.perf_counter()
    deleted = await store.delete_where(NAME, parse({"hundredth": 7}))
    subject.note("delete 1 % by filter", f"{deleted:,} in {time.perf_counter() - started:.2f} s")
    await come_back(subject, queries, len(vectors))
    await expire(subject, vectors[:EXPIRING])
    await subject.store.close()


async def load(subject: Subject, vectors: np.ndarray) -> float:
    started = time.perf_counter()
    for start in range(0, len(vectors), ITEMS_A_CALL):
        part = vectors[start : start + ITEMS_A_CALL]
        await subject.store.put(NAME, [subject.item(number, vector) for number, vector in enumerate(part, start)])
    return time.perf_counter() - started


async def wait_until_indexed(store: Any) -> None:
    """Waits until a graph has all vectors."""
    if hasattr(store, "_catalog"):  # Milvus, told not to wait for more rows
        place = (await store._catalog.find(NAME)).place
        await store._connection.manage("flush", place)
        while (await store._connection.manage("describe_index", place, "vector"))["pending_index_rows"]:  # noqa: ASYNC110
            await asyncio.sleep(1)
        await asyncio.sleep(5)  # until the index is loaded
    else:
        index, last = store._collections[NAME].index, (-1, 0)
        while index.progress != last:
            last = index.progress
            await asyncio.sleep(2)


async def search(
    subject: Subject, queries: np.ndarray, row: str, truth: np.ndarray | None, condition: Filter | None
) -> None:
    """Searches with one query at a time."""
    times, found = [], []
    for query in queries:
        started = time.perf_counter()
        (matches,) = await subject.store.search(NAME, query[None], top_k=TOP_K, filter=condition)
        times.append(1000 * (time.perf_counter() - started))
        found.append({int(match.item.id[1:]) for match in matches})
    p50, p99 = np.percentile(times, [50, 99])
    shared = [] if truth is None else [len(mine & set(true.tolist())) for mine, true in zip(found, truth, strict=True)]
    recall = f"{sum(shared) / TOP_K / len(queries):.3f}; " if shared else ""
    subject.note(row, f"{recall}{p50:.2f} / {p99:.2f} ms")


async def during_adds(subject: Subject, queries: np.ndarray, first: int, vectors: np.ndarray) -> None:
    added, stop = 0, asyncio.Event()
    started = time.perf_counter()

    async def add() -> None:
        nonlocal added
        while not stop.is_set():
            part = [subject.item(first + n, vectors[n % len(vectors)]) for n in range(added, added + ADDS_A_CALL)]
            await subject.store.put(NAME, part)
            added += ADDS_A_CALL
            await asyncio.sleep(max(0.0, started + added / ADDS_PER_S - time.perf_counter()))

    async def queries_at_a_time() -> AsyncIterator[np.ndarray]:
        number = 0
        while time.perf_counter() < started + ADDING_S:
            yield queries[number % len(queries)]
            number += 1
            await asyncio.sleep(0.01)

    adding, times = asyncio.create_task(add()), []
    async for query in queries_at_a_time():
        asked = time.perf_counter()
        await subject.store.search(NAME, query[None], top_k=TOP_K)
        times.append(1000 * (time.perf_counter() - asked))
    stop.set()
    await adding
    rate = added / (time.perf_counter() - started)
    p50, p99 = np.percentile(times, [50, 99])
    subject.note(f"{ADDS_PER_S:,} additions/s asked", f"{rate:,.0f}/s; searches {p50:.2f} / {p99:.2f} ms")
    await subject.store.delete(NAME, [f"d{first + n}" for n in range(added)])


async def visibility(subject: Subject, dim: int) -> None:
    """Puts items that the next search and another searching process should find."""
    own, times = [], []
    for number, vector in enumerate(random_vectors(dim, seed=8)):
        await subject.store.put(NAME, [Item(f"own{number}", "草", vector, {})])
        started = time.perf_counter()
        ((match,),) = await subject.store.search(NAME, vector[None], top_k=1)
        times.append(1000 * (time.perf_counter() - started))
        own.append(match.item.id == f"own{number}")
    p50 = np.percentile(times, 50)
    subject.note("own addition found by the next search", f"{sum(own)} of {len(own)}, which takes {p50:.0f} ms")
    if subject.url.startswith("sqlite"):
        return
    command = [sys.executable, __file__, "--watch", subject.url, "--dim", str(dim)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:  # noqa: ASYNC220
        assert other.stdin and other.stdout
        seen = []
        for number, vector in enumerate(random_vectors(dim, seed=9)):
            other.stdin.write(f"{number}\n")
            other.stdin.flush()
            assert await asyncio.to_thread(other.stdout.readline) == "searching\n"
            await subject.store.put(NAME, [Item(f"watched{number}", "草", vector, {})])
            acknowledged = time.time()
            seen.append(1000 * (float(await asyncio.to_thread(other.stdout.readline)) - acknowledged))
        other.stdin.close()
    subject.note("another gateway's seen after", f"{max(0, np.median(seen)):.0f} ms, at most {max(0, *seen):.0f} ms")


def random_vectors(dim: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((50, dim)).astype(np.float32))


async def watch(url: str, dim: int) -> None:
    """Searches for the items whose numbers come from standard input until they are found, and prints when."""
    store = await open_store(url)
    vectors = random_vectors(dim, seed=9)
    while line := await asyncio.to_thread(sys.stdin.readline):
        number, told = int(line), False
        while not (found := (await store.search(NAME, vectors[number][None], top_k=1))[0]) or (
            found[0].item.id != f"watched{number}"
        ):
            if not told:
                print("searching", flush=True)
                told = True
        print(time.time(), flush=True)
    await store.close()


async def come_back(subject: Subject, queries: np.ndarray, count: int) -> None:
    """Kills the server, starts it again and waits for the first answer and for all items to be found."""
    before = (await subject.store.describe(NAME)).count
    expected = [match.item.id for match in (await subject.store.search(NAME, queries[:1], top_k=TOP_K))[0]]
    started = time.perf_counter()
    if subject.restart is None:
        await subject.store.close()
        subject.store = await open_store(subject.url)
    else:
        await asyncio.to_thread(subject.restart)
    answered = ""
    while time.perf_counter() < started + 300:
        try:
            found = [match.item.id for match in (await subject.store.search(NAME, queries[:1], top_k=TOP_K))[0]]
            answered = answered or f"answers after {time.perf_counter() - started:.1f} s"
            if found[:3] == expected[:3] and (await subject.store.describe(NAME)).count == before:
                break
        except DanmakuError:
            await asyncio.sleep(0.1)
    after = (await subject.store.describe(NAME)).count
    subject.note(
        "kill -9 and start", f"{answered}, {after:,} of {before:,} after {time.perf_counter() - started:.1f} s"
    )


async def expire(subject: Subject, vectors: np.ndarray) -> None:
    """Lets items expire within 5 s while they are searched; counts those found after their time and those left."""
    store: Store = subject.store
    await store.drop(NAME)
    await store.create("expiring", dim=vectors.shape[1], fingerprint="benchmark")
    rate = EXPIRING / float(subject.rows["load acknowledged"].split()[0].replace(",", ""))
    ends = time.time() + 1.5 * rate + 10 + 5 * np.random.default_rng(0).random(len(vectors))
    for start in range(0, len(vectors), ITEMS_A_CALL):
        part = range(start, min(start + ITEMS_A_CALL, len(vectors)))
        await store.put("expiring", [subject.item(n, vectors[n], expires_at=float(ends[n])) for n in part])
    late, searches, left = 0, 0, -1
    while time.time() < ends.max() + 120:
        asked = time.time()
        (found,) = await store.search("expiring", vectors[searches % len(vectors)][None], top_k=TOP_K)
        searches += 1
        late += sum(match.item.expires_at is not None and match.item.expires_at <= asked for match in found)
        if asked > ends.max() and (left := await count_stored(store)) == 0:
            break
    subject.note(
        f"{len(vectors):,} expiring",
        f"{late} of {searches:,} searches late; {left:,} stored {max(0, time.time() - ends.max()):.0f} s after the end",
    )
    await store.drop("expiring")


async def count_stored(store: Any) -> int:
    if not hasattr(store, "_catalog"):
        return int((await store.describe("expiring")).count)
    owner = await store._catalog.find("expiring")
    return int((await store._query(owner, f'owner == "{owner.id}"', ["count(*)"]))["count(*)"][0])


async def run(subjects: list[Subject], vectors: np.ndarray) -> None:
    queries, vectors = vectors[-QUERIES:], vectors[:-QUERIES]
    truths = {step: true_neighbours(vectors, queries, step) for step in (1, 2, 10, 100, 1000)}
    for subject in subjects:
        await measure(subject, vectors, queries, truths)
    print(f"\n| {len(vectors):,} × {vectors.shape[1]} | " + " | ".join(subject.name for subject in subjects) + " |")
    print("|---" * (len(subjects) + 1) + "|")
    for row in dict.fromkeys(row for subject in subjects for row in subject.rows):
        print(f"| {row} | " + " | ".join(subject.rows.get(row, "–") for subject in subjects) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, help="unit vectors [n, dim] in NumPy's format")
    parser.add_argument("--texts", type=Path, help="a file with one text per line, for the vectors")
    parser.add_argument("--count", type=int, default=50_000, help="how many to load [50000]")
    parser.add_argument("--dim", type=int, default=256, help="dimensions of random vectors [256]")
    parser.add_argument("--stores", nargs="+", default=["sqlite", "milvus"], help="which stores [all]")
    parser.add_argument("--directory", type=Path, help="directory for the data [a temporary one]")
    parser.add_argument("--watch", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        asyncio.run(watch(arguments.watch, arguments.dim))
        return
    count = arguments.count + QUERIES
    if arguments.vectors:
        stored = np.load(arguments.vectors, mmap_mode="r")
        stored = stored[np.isfinite(stored[:, 0])]
        vectors = unit(np.asarray(stored[:count], np.float32))
    else:
        vectors = clustered(count, arguments.dim)
    texts = arguments.texts.read_text(encoding="utf-8").splitlines() if arguments.texts else ["弹幕"]
    source = arguments.vectors.name if arguments.vectors else "drawn"
    print(
        f"{len(vectors) - QUERIES:,} × {vectors.shape[1]} ({source}), "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}",
        flush=True,
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.directory)))
        subjects = []
        for name in arguments.stores:
            place = folder / name
            place.mkdir()
            subjects.append(start(stack, name, place, texts))
        asyncio.run(run(subjects, vectors))


def start(stack: ExitStack, name: str, folder: Path, texts: list[str]) -> Subject:
    if name == "sqlite":
        return Subject("embedded", f"sqlite://{folder}", psutil.Process, folder, texts)
    # Its lease is its default; the tests' is longer, because their machine may be busy.
    milvus = stack.enter_context(running_milvus(folder, COMMON_SESSION_TTL="30"))
    return Subject("Milvus", milvus.url, lambda: psutil.Process(milvus.process.pid), folder, texts, milvus.restart)


if __name__ == "__main__":
    main()
