"""The index over the vectors of a collection: exact, by graph, from a snapshot, and after most rows have gone."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest

from service.stores.base import Item, Store
from service.stores.filters import Filter, parse
from service.stores.open import open_store
from service.stores.sqlite import database as databases
from service.stores.sqlite import graph as graphs
from service.stores.sqlite import index as indices
from service.stores.sqlite import maintenance as tending
from service.stores.sqlite.graph import Graph
from service.stores.sqlite.index import Index, NewRows
from service.vectors import unit

DIM = 32
SMALL = 500  # in place of EXACT_UP_TO, so that a test needs few rows for a graph


@pytest.fixture(autouse=True)
def graphs_are_worth_it_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indices, "EXACT_UP_TO", SMALL)
    monkeypatch.setattr(indices, "TAIL", 100)
    monkeypatch.setattr(indices, "IN_ORDER_US", 5.0)
    monkeypatch.setattr(indices, "SCATTERED_US", 5.0)
    monkeypatch.setattr(tending, "SNAPSHOT_ROWS", 500)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32))


def rows(count: int, *, first: int = 1, seed: int = 0, ends: float = math.inf) -> NewRows:
    metadata = [{"room": number % 10, "rare": number % 100 == 0} for number in range(first, first + count)]
    numbers = np.arange(first, first + count)
    return NewRows(numbers, vectors(count, seed).astype(np.float16), np.full(count, ends), metadata)


def filled(*batches: NewRows) -> Index:
    index = Index(DIM, Lock())
    for batch in batches:
        index.add(batch)
    return index


def tend(index: Index) -> None:
    index.tend(lambda: False)


def search(index: Index, query: np.ndarray, filter: Filter | None = None, **settings: Any) -> list[int]:
    found = index.search(query, **({"top_k": 10, "min_score": None, "filter": filter, "now": 0.0} | settings))
    assert found is not None
    return [int(number) for number in found[0]]


def exact(batch: NewRows, query: np.ndarray, keep: np.ndarray | None = None, top_k: int = 10) -> list[int]:
    scores = batch.vectors.astype(np.float32) @ query.astype(np.float16).astype(np.float32)
    order = np.argsort(-scores)
    order = order if keep is None else order[keep[order]]
    return [int(number) for number in batch.numbers[order[:top_k]]]


def recall(index: Index, batch: NewRows, filter: Filter | None = None, keep: np.ndarray | None = None) -> float:
    queries = vectors(50, seed=9)
    shared = [len(set(search(index, query, filter)) & set(exact(batch, query, keep))) for query in queries]
    wanted = [len(exact(batch, query, keep)) for query in queries]
    return sum(shared) / sum(wanted)


def test_a_small_collection_is_searched_exactly() -> None:
    batch = rows(SMALL)
    index = filled(batch)
    tend(index)

    assert index.progress == (0, SMALL)
    assert recall(index, batch) == 1


def test_a_large_one_by_a_graph() -> None:
    batch = rows(3000)
    index = filled(batch)
    tend(index)

    assert index.progress == (3000, 3000)
    assert recall(index, batch) >= 0.95


def test_rows_are_found_before_they_are_in_the_graph() -> None:
    old, new = rows(2000), rows(300, first=2001, seed=1)
    index = filled(old)
    tend(index)
    index.add(new)

    assert index.progress == (2000, 2300)
    for number, vector in zip(new.numbers, new.vectors.astype(np.float32), strict=True):
        assert search(index, vector, top_k=1) == [number]
    tend(index)
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
    """However few it keeps."""
    batch = rows(3000)
    index = filled(batch)
    tend(index)
    filter = parse(source)
    assert index.search(vectors(1)[0], top_k=1, min_score=None, filter=filter, now=0.0) is None, "columns are missing"
    index.add_columns(index.missing_columns(filter), zip(batch.numbers.tolist(), batch.metadata, strict=True))

    kept = keep(batch.numbers)
    if not kept.any():
        assert search(index, vectors(1)[0], filter) == []
    else:
        assert recall(index, batch, filter, kept) >= 0.95
    for query in vectors(20, seed=9):
        found = search(index, query, filter)
        assert len(found) == min(10, kept.sum())
        assert kept[np.array(found, int) - 1].all()


def test_removed_and_expired_rows_are_not_found_in_a_graph() -> None:
    """Though their neighbours are, also where only few are left."""
    lasting, ending = rows(2000, ends=100.0), rows(1000, first=2001, seed=1, ends=50.0)
    index = filled(lasting, ending)
    tend(index)
    index.remove(range(1, 1001))
    query = vectors(1, seed=1)[0]

    assert search(index, query, now=49.0)[0] == 2001
    found = search(index, query, now=50.0)
    assert len(found) == 10 and all(1000 < number <= 2000 for number in found)
    index.remove(range(1001, 1996))
    assert sorted(search(index, query, now=50.0)) == [1996, 1997, 1998, 1999, 2000]
    assert search(index, query, now=100.0) == []


def test_many_copies_of_a_row_do_not_hide_the_others() -> None:
    """As when the same danmaku is replaced again and again: each search meets all that were removed."""
    batch = rows(2000)
    index = filled(batch)
    copies = NewRows(
        np.arange(2001, 2901), np.repeat(batch.vectors[:1], 900, axis=0), np.full(900, math.inf), [{}] * 900
    )
    index.add(copies)
    tend(index)
    index.remove(copies.numbers.tolist())

    query = batch.vectors[0].astype(np.float32)
    assert len(set(search(index, query)) & set(exact(batch, query))) >= 9


def test_room_is_made_when_most_rows_are_gone() -> None:
    batch = rows(4000)
    index = filled(batch)
    tend(index)
    room = parse({"room": 3})
    index.add_columns({"room"}, zip(batch.numbers.tolist(), batch.metadata, strict=True))
    index.remove(range(1, 2501))
    tend(index)

    assert index.progress == (1500, 1500)
    kept = batch.numbers > 2500
    assert recall(index, batch, None, kept) >= 0.95
    assert recall(index, batch, room, kept & (batch.numbers % 10 == 3)) >= 0.95
    index.remove(range(2501, 4001))
    tend(index)
    assert index.progress == (0, 0)


def test_a_snapshot_holds_the_graph(tmp_path: Path) -> None:
    batch = rows(3000)
    index = filled(batch)
    tend(index)
    graph, numbers = index.snapshot()
    graph.save(tmp_path / "1.graph", numbers)
    remaining = NewRows(batch.numbers[10:], batch.vectors[10:], batch.ends[10:], [])
    newer = rows(50, first=5000, seed=1)
    both = NewRows(
        *(np.concatenate([getattr(remaining, f), getattr(newer, f)]) for f in ("numbers", "vectors", "ends")), []
    )

    restored = Index.restored(DIM, Lock(), *Graph.load(tmp_path / "1.graph", DIM), both)

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
    tend(index)
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
    tend(index)
    graph, numbers = index.snapshot()
    graph.save(tmp_path / "1.graph", numbers * 2 - 1)

    with pytest.raises(ValueError, match="not of this database"):
        Index.restored(DIM, Lock(), *Graph.load(tmp_path / "1.graph", DIM), rows(1000))


def test_others_search_while_a_snapshot_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = rows(2000)
    index = filled(batch)
    tend(index)
    graph, numbers = index.snapshot()
    searched: list[int] = []

    def search_meanwhile(done: int, total: int) -> bool:
        if done % 500 == 1:
            searched.extend(search(index, vectors(1)[0], top_k=1))
        return True

    monkeypatch.setattr(graphs, "_let_others_work", search_meanwhile)
    search_meanwhile.__annotations__ = {"done": int, "total": int, "return": bool}  # usearch goes by the types
    graph.save(tmp_path / "1.graph", numbers)
    assert set(searched) == {1} and len(searched) > 3


async def put(store: Store, count: int) -> np.ndarray:
    found = vectors(count)
    items = [Item(f"d{number}", f"弹幕{number}", vector, {}) for number, vector in enumerate(found)]
    for start in range(0, count, 500):
        await store.put("c", items[start : start + 500])
    return found


def pages(database: Path) -> int:
    """As SQLite counts them: the file alone does not tell, as long as the log has not been written back to it."""
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("PRAGMA page_count").fetchone()[0])


async def until(condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen")


async def test_a_store_goes_on_from_its_snapshot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And without one, or with a damaged one, from its database."""
    store = await open_store(f"sqlite://{tmp_path}")
    await store.create("c", dim=DIM, fingerprint="f0")
    put_vectors = await put(store, 2000)
    snapshot = tmp_path / "1.graph"
    await until(snapshot.exists)
    await store.delete("c", ["d5"])
    await store.close()

    async def is_whole() -> bool:
        """Opens it again; whether it took notice of the snapshot."""
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            store = await open_store(f"sqlite://{tmp_path}")
        found = [matches[0].item.id for matches in await store.search("c", put_vectors[:20], top_k=1)]
        assert found[:5] + found[6:] == [f"d{number}" for number in range(20) if number != 5]
        assert found[5] != "d5"
        await until(snapshot.exists)
        await store.close()
        return "built anew" not in caplog.text

    assert await is_whole()
    snapshot.write_bytes(snapshot.read_bytes()[:-9])
    assert not await is_whole()
    assert await is_whole(), "it was replaced"
    snapshot.unlink()
    assert await is_whole()


async def test_many_expire_while_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is returned after its time, and the room that they took is given back."""
    count = 20_000
    monkeypatch.setattr(indices, "EXACT_UP_TO", 200_000)  # a graph of so many takes longer than a test may
    monkeypatch.setattr(databases, "PAGES_AT_A_TIME", 50)  # fewer free ones are kept
    store = await open_store(f"sqlite://{tmp_path}")
    await store.create("c", dim=DIM, fingerprint="f0")
    await store.put("c", [Item("stays", "草", vectors(1)[0], {})])
    many = vectors(count, seed=1)
    started = time.time()
    ends = started + 5 + np.random.default_rng(0).random(count)
    for start in range(0, count, 5000):
        part = range(start, start + 5000)
        await store.put("c", [Item(f"d{n}", f"弹幕{n}", many[n], {}, expires_at=float(ends[n])) for n in part])
    database = tmp_path / "collections.db"
    assert (await store.describe("c")).count == count + 1 or time.time() > started + 5

    while (await store.describe("c")).count > 1:
        asked = time.time()
        (found,) = await store.search("c", many[:1], top_k=20)
        assert all(match.item.expires_at is None or match.item.expires_at > asked for match in found)
        assert time.time() < ends.max() + 60, "they are still there"
    await until(lambda: pages(database) < 150)  # all of them took over 700
    assert [match.item.id for match in (await store.search("c", many[:1], top_k=20))[0]] == ["stays"]
    await store.close()
