"""The vector index of a collection: exact, by graph, from a snapshot, and after most rows are gone."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from stored import until

from service.stores.base import Item, Store
from service.stores.filters import Filter, parse
from service.stores.sqlite.graph import Graph
from service.stores.sqlite.index import Index, RowBatch
from service.stores.sqlite.store import SqliteStore
from service.stores.sqlite.tuning import Tuning
from service.vectors import unit

DIM = 32
SMALL = 500
TUNING = Tuning(
    exact_up_to=SMALL, tail=100, in_order_us=5.0, scattered_us=5.0, snapshot_rows=500
)  # few rows for a graph


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32))


def rows(count: int, *, first: int = 1, seed: int = 0, ends: float = math.inf) -> RowBatch:
    metadata = [{"room": number % 10, "rare": number % 100 == 0} for number in range(first, first + count)]
    numbers = np.arange(first, first + count)
    return RowBatch(numbers, vectors(count, seed).astype(np.float16), np.full(count, ends), metadata)


def build_columns(index: Index, fields: set[str], batch: RowBatch) -> None:
    build = index.begin_columns(fields)
    is_complete = build.read(zip(batch.numbers.tolist(), batch.metadata, strict=True), lambda: False)
    index.end_columns(build, is_complete=is_complete)


def filled(*batches: RowBatch) -> Index:
    index = Index(DIM, Lock(), TUNING)
    for batch in batches:
        index.add(batch)
    return index


def maintain(index: Index) -> None:
    index.maintain(lambda: False)


def search(index: Index, query: np.ndarray, condition: Filter | None = None, **settings: Any) -> list[int]:
    found = index.search(query, **({"top_k": 10, "min_score": None, "condition": condition, "now": 0.0} | settings))
    assert found is not None
    return [int(number) for number in found[0]]


def exact(batch: RowBatch, query: np.ndarray, keep: np.ndarray | None = None, top_k: int = 10) -> list[int]:
    scores = batch.vectors.astype(np.float32) @ query.astype(np.float16).astype(np.float32)
    order = np.argsort(-scores)
    order = order if keep is None else order[keep[order]]
    return [int(number) for number in batch.numbers[order[:top_k]]]


def recall(index: Index, batch: RowBatch, condition: Filter | None = None, keep: np.ndarray | None = None) -> float:
    queries = vectors(50, seed=9)
    shared = [len(set(search(index, query, condition)) & set(exact(batch, query, keep))) for query in queries]
    wanted = [len(exact(batch, query, keep)) for query in queries]
    return sum(shared) / sum(wanted)


def test_a_small_collection_is_searched_exactly() -> None:
    batch = rows(SMALL)
    index = filled(batch)
    maintain(index)

    assert index.progress == (0, SMALL)
    assert recall(index, batch) == 1


def test_a_large_collection_is_searched_by_a_graph() -> None:
    batch = rows(3000)
    index = filled(batch)
    maintain(index)

    assert index.progress == (3000, 3000)
    assert recall(index, batch) >= 0.95


def test_rows_are_found_before_they_are_in_the_graph() -> None:
    old, new = rows(2000), rows(300, first=2001, seed=1)
    index = filled(old)
    maintain(index)
    index.add(new)

    assert index.progress == (2000, 2300)
    for number, vector in zip(new.numbers, new.vectors.astype(np.float32), strict=True):
        assert search(index, vector, top_k=1) == [number]
    maintain(index)
    assert index.progress == (2200, 2300), "some may wait"
    for number, vector in zip(new.numbers, new.vectors.astype(np.float32), strict=True):
        assert search(index, vector, top_k=1) == [number]


@pytest.mark.parametrize(
    ("source", "keep"),
    [
        ({"room": 3}, lambda numbers: numbers % 10 == 3),
        ({"not": {"room": 3}}, lambda numbers: numbers % 10 != 3),
        ({"rare": True}, lambda numbers: numbers % 100 == 0),
        ({"room": {"gte": 3, "lt": 5}}, lambda numbers: (numbers % 10 >= 3) & (numbers % 10 < 5)),
        ({"room": 11}, lambda numbers: numbers < 0),
    ],
)
def test_a_filter_finds_as_many_in_a_graph(source: Any, keep: Any) -> None:
    """This holds however few items match."""
    batch = rows(3000)
    index = filled(batch)
    maintain(index)
    condition = parse(source)
    assert index.search(vectors(1)[0], top_k=1, min_score=None, condition=condition, now=0.0) is None, (
        "columns are missing"
    )
    build_columns(index, index.missing_columns(condition), batch)

    kept = keep(batch.numbers)
    if not kept.any():
        assert search(index, vectors(1)[0], condition) == []
    else:
        assert recall(index, batch, condition, kept) >= 0.95
    for query in vectors(20, seed=9):
        found = search(index, query, condition)
        assert len(found) == min(10, kept.sum())
        assert kept[np.array(found, int) - 1].all()


def test_removed_and_expired_rows_are_not_found_in_a_graph() -> None:
    """Their neighbours are found, even if only few are left."""
    lasting, ending = rows(2000, ends=100.0), rows(1000, first=2001, seed=1, ends=50.0)
    index = filled(lasting, ending)
    maintain(index)
    index.remove(range(1, 1001))
    query = vectors(1, seed=1)[0]

    assert search(index, query, now=49.0)[0] == 2001
    found = search(index, query, now=50.0)
    assert len(found) == 10 and all(1000 < number <= 2000 for number in found)
    index.remove(range(1001, 1996))
    assert sorted(search(index, query, now=50.0)) == [1996, 1997, 1998, 1999, 2000]
    assert search(index, query, now=100.0) == []


def test_many_copies_of_a_row_do_not_hide_the_others() -> None:
    """A danmaku that is replaced again and again leaves many removed rows near every search for it."""
    batch = rows(2000)
    index = filled(batch)
    copies = RowBatch(
        np.arange(2001, 2901), np.repeat(batch.vectors[:1], 900, axis=0), np.full(900, math.inf), [{}] * 900
    )
    index.add(copies)
    maintain(index)
    index.remove(copies.numbers.tolist())

    query = batch.vectors[0].astype(np.float32)
    assert len(set(search(index, query)) & set(exact(batch, query))) >= 9


def test_a_graph_is_compacted_when_most_rows_are_gone() -> None:
    batch = rows(4000)
    index = filled(batch)
    maintain(index)
    room = parse({"room": 3})
    build_columns(index, {"room"}, batch)
    index.remove(range(1, 2501))
    maintain(index)

    assert index.progress == (1500, 1500)
    kept = batch.numbers > 2500
    assert recall(index, batch, None, kept) >= 0.95
    assert recall(index, batch, room, kept & (batch.numbers % 10 == 3)) >= 0.95
    index.remove(range(2501, 4001))
    maintain(index)
    assert index.progress == (0, 0)


def test_rows_removed_during_a_compaction_stay_removed() -> None:
    """They are removed before and after the new graph has taken them in; rows added meanwhile are kept."""
    batch = rows(4000)
    index = filled(batch)
    index.remove(range(1, 2501))
    newer = rows(10, first=4001, seed=1)
    calls = 0

    def remove_meanwhile() -> bool:
        nonlocal calls
        calls += 1
        if calls == 10:
            index.remove([2501, 4000])  # the first is in the new graph already, the last is not
            index.add(newer)
            index.remove([4005])
        return False

    index.maintain(remove_meanwhile)

    assert calls > 10
    assert index.count == 1507
    removed = np.concatenate([batch.vectors[[2500, 3999]], newer.vectors[4:5]]).astype(np.float32)
    found = {number for vector in removed for number in search(index, vector)}
    assert not found & {2501, 4000, 4005}
    assert search(index, newer.vectors[5].astype(np.float32), top_k=1) == [4006]
    assert len(search(index, vectors(1)[0], top_k=5000)) == 1507


class GrowingGraph(Graph):
    """A graph that grows while it is searched, as when the maintenance thread runs in between."""

    grow: Callable[[], None] = staticmethod(lambda: None)

    def find_nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        self.grow()
        return super().find_nearest(vector, count)


def test_no_row_is_found_twice_while_the_graph_grows(tmp_path: Path) -> None:
    old, tail = rows(2000), rows(300, first=2001, seed=1)
    index = filled(old)
    maintain(index)
    graph, numbers = index.snapshot()
    graph.save(tmp_path / "1.graph", numbers)
    growing, known = GrowingGraph.load(tmp_path / "1.graph", DIM)
    every = RowBatch(*(np.concatenate([getattr(old, f), getattr(tail, f)]) for f in ("numbers", "vectors", "ends")), [])
    index = Index.restore(Lock(), growing, known, every, TUNING)
    growing.grow = lambda: maintain(index)

    found = search(index, tail.vectors[0].astype(np.float32))

    assert index.progress == (2200, 2300), "the first row of the tail is in the graph now"
    assert found == exact(every, tail.vectors[0].astype(np.float32))


def test_a_snapshot_holds_the_graph(tmp_path: Path) -> None:
    batch = rows(3000)
    index = filled(batch)
    maintain(index)
    graph, numbers = index.snapshot()
    graph.save(tmp_path / "1.graph", numbers)
    remaining = RowBatch(batch.numbers[10:], batch.vectors[10:], batch.ends[10:], [])
    newer = rows(50, first=5000, seed=1)
    both = RowBatch(
        *(np.concatenate([getattr(remaining, f), getattr(newer, f)]) for f in ("numbers", "vectors", "ends")), []
    )

    restored = Index.restore(Lock(), *Graph.load(tmp_path / "1.graph", DIM), both, TUNING)

    assert restored.count == 3040
    assert restored.progress == (3000, 3050)
    assert recall(restored, both) >= 0.95
    assert not set(range(1, 11)) & {
        n for query in batch.vectors[:10] for n in search(restored, query.astype(np.float32))
    }
    assert search(restored, newer.vectors[7].astype(np.float32), top_k=1) == [5007]
    assert [path.name for path in tmp_path.iterdir()] == ["1.graph"]


@pytest.mark.parametrize("at", [0, 100, 20_000, -5000, -30, -1])
def test_a_damaged_snapshot_is_noticed(tmp_path: Path, at: int) -> None:
    index = filled(rows(1000))
    maintain(index)
    graph, numbers = index.snapshot()
    path = tmp_path / "1.graph"
    graph.save(path, numbers)
    whole = path.read_bytes()

    flipped = bytearray(whole)
    flipped[at] ^= 1
    for damaged in (bytes(flipped), whole[:at] if at else b"", whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"1\.graph"):
            Graph.load(path, DIM)


def test_a_snapshot_of_another_database_is_noticed(tmp_path: Path) -> None:
    index = filled(rows(1000))
    maintain(index)
    graph, numbers = index.snapshot()
    graph.save(tmp_path / "1.graph", numbers * 2 - 1)

    with pytest.raises(ValueError, match="belongs to another database"):
        Index.restore(Lock(), *Graph.load(tmp_path / "1.graph", DIM), rows(1000))


def test_others_search_while_a_snapshot_is_written(tmp_path: Path) -> None:
    batch = rows(2000)
    index = filled(batch)
    maintain(index)
    graph, numbers = index.snapshot()
    searched: list[int] = []

    def search_meanwhile(done: int, total: int) -> bool:
        if done % 500 == 1:
            searched.extend(search(index, vectors(1)[0], top_k=1))
        return True

    search_meanwhile.__annotations__ = {"done": int, "total": int, "return": bool}  # usearch checks the types
    graph.save(tmp_path / "1.graph", numbers, search_meanwhile)
    assert set(searched) == {1} and len(searched) > 3


async def put(store: Store, count: int) -> np.ndarray:
    found = vectors(count)
    items = [Item(f"d{number}", f"弹幕{number}", vector, {}) for number, vector in enumerate(found)]
    for start in range(0, count, 500):
        await store.put("c", items[start : start + 500])
    return found


def pages(database: Path) -> int:
    """Returns the page count of SQLite; the size of the file lags behind until the log is written back."""
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("PRAGMA page_count").fetchone()[0])


async def test_a_store_starts_from_its_snapshot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without one, or with a damaged one, it starts from its database."""
    store = await SqliteStore.open(tmp_path, TUNING)
    await store.create("c", dim=DIM, fingerprint="f0")
    put_vectors = await put(store, 2000)
    snapshot = tmp_path / "1.graph"
    await until(snapshot.exists)
    await store.delete("c", ["d5"])
    await store.close()

    async def is_whole() -> bool:
        """Opens the store again; returns whether it used the snapshot."""
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            store = await SqliteStore.open(tmp_path, TUNING)
        found = [matches[0].item.id for matches in await store.search("c", put_vectors[:20], top_k=1)]
        assert found[:5] + found[6:] == [f"d{number}" for number in range(20) if number != 5]
        assert found[5] != "d5"
        await until(snapshot.exists)
        await store.close()
        return "is unusable" not in caplog.text

    assert await is_whole()
    snapshot.write_bytes(snapshot.read_bytes()[:-9])
    assert not await is_whole()
    assert await is_whole(), "it was replaced"
    snapshot.unlink()
    assert await is_whole()


async def test_many_expire_while_searched(tmp_path: Path) -> None:
    """None is returned after its time, and the space is freed."""
    count = 10_000
    # A graph of so many would take too long; and fewer free pages are kept.
    store = await SqliteStore.open(tmp_path, replace(TUNING, exact_up_to=200_000, pages_at_a_time=50))
    await store.create("c", dim=DIM, fingerprint="f0")
    await store.put("c", [Item("stays", "草", vectors(1)[0], {})])
    many = vectors(count, seed=1)
    started = time.time()
    ends = started + 3 + np.random.default_rng(0).random(count)
    for start in range(0, count, 5000):
        part = range(start, start + 5000)
        await store.put("c", [Item(f"d{n}", f"弹幕{n}", many[n], {}, expires_at=float(ends[n])) for n in part])
    database = tmp_path / "collections.db"
    assert (await store.describe("c")).count == count + 1 or time.time() > started + 3

    while (await store.describe("c")).count > 1:
        asked = time.time()
        (found,) = await store.search("c", many[:1], top_k=20)
        assert all(match.item.expires_at is None or match.item.expires_at > asked for match in found)
        assert time.time() < ends.max() + 60, "they are still there"
    await until(lambda: pages(database) < 150)  # all of them took over 350
    assert [match.item.id for match in (await store.search("c", many[:1], top_k=20))[0]] == ["stays"]
    await store.close()
