"""One contract for every store of collections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import CollectionExists, InvalidRequest, NotFound, StoreUnavailable
from service.similarity.base import Item, Match, Store, open_store
from service.similarity.filters import matches, parse
from service.similarity.ranking import unit

DIM = 16
C = "danmaku"


@pytest.fixture(params=["sqlite", "redis", "redis_cluster"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'collections'}"
    url: str = request.getfixturevalue(f"empty_{request.param}")
    return url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """With an empty collection in it."""
    store = await open_store(url)
    await store.create(C, dim=DIM, fingerprint="f0")
    yield store
    await store.close()


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32))


def towards(axis: int) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[axis]


def item(id: str, vector: np.ndarray | None = None, text: str = "草", **fields: Any) -> Item:
    return Item(id, text, towards(0) if vector is None else vector, **({"metadata": {}} | fields))


def many(count: int, seed: int = 0) -> list[Item]:
    """Items with fields for a filter to look at: in rooms of all sizes."""
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


async def test_a_collection_is_described(store: Store) -> None:
    before = await store.describe(C)
    await store.put(C, many(50))
    info = await store.describe(C)

    assert (info.name, info.count, info.dim, info.fingerprint) == (C, 50, DIM, "f0")
    assert info.bytes > before.bytes >= 0
    assert info.created_at == pytest.approx(time.time(), abs=60)


async def test_collections_are_listed_by_name(store: Store) -> None:
    await store.create("b", dim=4, fingerprint="f1")
    await store.create("a.b-c_0", dim=4, fingerprint="f1")

    assert [info.name for info in await store.list()] == ["a.b-c_0", "b", C]


async def test_creating_again_changes_nothing(store: Store) -> None:
    await store.put(C, [item("a")])

    assert (await store.create(C, dim=DIM, fingerprint="f0")).count == 1


@pytest.mark.parametrize("other", [{"dim": DIM, "fingerprint": "f1"}, {"dim": 4, "fingerprint": "f0"}])
async def test_a_collection_keeps_its_kind_of_vectors(store: Store, other: dict[str, Any]) -> None:
    with pytest.raises(CollectionExists, match=C):
        await store.create(C, **other)


async def test_collections_do_not_see_each_other(store: Store) -> None:
    await store.create("other", dim=DIM, fingerprint="f0")
    await store.put("other", [item("a")])

    assert await nearest(store, towards(0)) == []
    assert await store.get(C, ["a"]) == {}


async def test_a_dropped_collection_is_gone(store: Store) -> None:
    await store.put(C, many(5))
    await store.drop(C)

    assert await store.list() == []
    await store.create(C, dim=4, fingerprint="f1")
    assert (await store.describe(C)).count == 0
    assert await everything(store) == {}


async def test_what_is_not_there_is_named(store: Store) -> None:
    calls = [
        store.describe("none"),
        store.drop("none"),
        store.put("none", [item("a")]),
        store.get("none", ["a"]),
        store.delete("none", ["a"]),
        store.delete_where("none", parse({})),
        store.search("none", towards(0)[None], top_k=1),
        store.page("none", limit=1),
        store.swap(C, "none"),
        store.swap("none", C),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="none"):
            await call
    assert [info.name for info in await store.list()] == [C]


async def test_items_come_back_as_they_were_put(store: Store) -> None:
    expires_at = time.time() + 1000
    put = item("阿夸 1", vectors(1)[0], "阿夸\n0 🦀", metadata={"room": 3, "tags": ["a", None]}, expires_at=expires_at)

    changes = await store.put(C, [put, item("b", count=7)])

    assert (changes.added, changes.replaced) == (2, 0)
    found = await store.get(C, ["阿夸 1", "b", "none"])
    assert list(found) == ["阿夸 1", "b"]
    assert same(found["阿夸 1"], put)
    assert found["b"].count == 7


async def test_a_put_replaces(store: Store) -> None:
    await store.put(C, [item("a", towards(0), metadata={"room": 1}), item("b", towards(1))])
    replacement = item("a", towards(2), "好", metadata={"room": 2}, expires_at=time.time() + 1000)

    changes = await store.put(C, [replacement, item("c", towards(3))])

    assert (changes.added, changes.replaced) == (1, 1)
    assert same((await store.get(C, ["a"]))["a"], replacement)
    assert ids(await nearest(store, towards(2), top_k=1)) == ["a"]
    assert "a" not in ids(await nearest(store, towards(0), min_score=0.5))
    assert ids(await nearest(store, towards(0), filter=parse({"room": 1}))) == []
    assert ids(await nearest(store, towards(0), filter=parse({"room": 2}))) == ["a"]
    assert (await store.describe(C)).count == 3


async def test_counts_of_the_same_text_add_up(store: Store) -> None:
    """Between calls and within one; another text starts anew; the rest is the last put's."""
    await store.put(C, [item("a")])
    changes = await store.put(C, [item("a", count=3), item("b"), item("a", metadata={"room": 2})])

    assert (changes.added, changes.replaced) == (1, 1)
    found = (await store.get(C, ["a"]))["a"]
    assert (found.count, found.metadata) == (5, {"room": 2})
    assert ids(await nearest(store, towards(0), filter=parse({"room": 2}))) == ["a"]
    await store.put(C, [item("a", text="好", count=2)])
    assert (await store.get(C, ["a"]))["a"].count == 2


async def test_vectors_of_another_length_are_refused(store: Store) -> None:
    """And nothing of the call is done."""
    with pytest.raises(InvalidRequest, match=f"4 numbers.*{C}.*{DIM}"):
        await store.put(C, [item("a"), item("b", np.ones(4, np.float32))])
    with pytest.raises(InvalidRequest, match=f"4 numbers.*{C}.*{DIM}"):
        await nearest(store, np.ones(4, np.float32))

    assert await everything(store) == {}


async def test_nothing_to_do_is_fine(store: Store) -> None:
    assert (await store.put(C, [])).added == 0
    assert await store.get(C, []) == {}
    assert await store.delete(C, []) == 0
    assert await store.search(C, np.empty((0, DIM), np.float32), top_k=3) == []
    assert await nearest(store, towards(0)) == []


async def test_the_nearest_come_first(store: Store) -> None:
    items = many(300)
    await store.put(C, items)
    queries = vectors(5, seed=1)

    for query, found in zip(queries, await store.search(C, queries, top_k=10), strict=True):
        scores = np.array([item.vector for item in items]) @ query
        assert ids(found) == [items[index].id for index in np.argsort(-scores)[:10]]
        np.testing.assert_allclose([match.score for match in found], np.sort(scores)[::-1][:10], atol=2e-3)
        assert all(match.item.vector is None and match.item.metadata for match in found)


async def test_an_item_finds_itself(store: Store) -> None:
    items = many(50)
    await store.put(C, items)

    for found, item in zip(await store.search(C, vectors(50), top_k=1), items, strict=True):
        assert ids(found) == [item.id]
        assert found[0].score == pytest.approx(1, abs=1e-3)
        assert found[0].score <= 1


async def test_min_score_and_top_k_cut_the_list(store: Store) -> None:
    half = unit(np.array([towards(0) + towards(1)]))[0]
    await store.put(C, [item("a", towards(0)), item("b", half), item("c", towards(2))])

    assert ids(await nearest(store, towards(0), min_score=0.5)) == ["a", "b"]
    assert ids(await nearest(store, towards(0), min_score=0.5, top_k=1)) == ["a"]
    assert ids(await nearest(store, towards(0), min_score=0.8)) == ["a"]
    assert ids(await nearest(store, -towards(0), min_score=0.1)) == []


async def test_vectors_come_along_when_asked_for(store: Store) -> None:
    put = item("a", vectors(1)[0])
    await store.put(C, [put])

    (found,) = await nearest(store, towards(0), with_vectors=True)
    assert same(found.item, put)


FILTERS: list[Any] = [
    {},
    {"room": "r3"},
    {"rare": True},
    {"number": 17},
    {"number": {"gte": 5, "lt": 250}},
    {"number": {"gt": 290}},
    {"room": {"in": ["r1", "r2", "none"]}},
    {"room": {"in": []}},
    {"even": True, "room": {"in": ["r1", "r2"]}},
    {"not": {"rare": True}},
    {"or": [{"rare": True}, {"number": {"lte": 3}}]},
    {"and": [{"not": {"even": True}}, {"or": [{"room": "r1"}, {"room": "r3"}]}]},
    {"room": 3},
    {"even": 1},
    {"none": 1},
    {"not": {"none": {"lt": 1}}},
]


@pytest.mark.parametrize("source", FILTERS, ids=str)
async def test_a_filter_is_exact(store: Store, source: Any) -> None:
    """The nearest of those that match, as many as there are, up to top_k."""
    items = many(300)
    await store.put(C, items)
    filter = parse(source)
    matching = [item for item in items if matches(filter, item.metadata)]
    query = vectors(1, seed=2)[0]
    expected = sorted(matching, key=lambda item: -float(item.vector @ query))[:10]

    assert ids(await nearest(store, query, filter=filter)) == [item.id for item in expected]


async def test_filters_follow_changes(store: Store) -> None:
    await store.put(C, [item("a", metadata={"room": 1}), item("b", metadata={"room": 2})])
    in_room = parse({"room": 1})
    assert ids(await nearest(store, towards(0), filter=in_room)) == ["a"]

    await store.put(C, [item("b", metadata={"room": 1}), item("c", metadata={"room": 1}), item("a")])
    assert sorted(ids(await nearest(store, towards(0), filter=in_room))) == ["b", "c"]


@pytest.mark.parametrize("source", FILTERS, ids=str)
async def test_items_are_deleted_by_filter(store: Store, source: Any) -> None:
    items = many(150)
    await store.put(C, items)
    filter = parse(source)
    rest = {item.id for item in items if not matches(filter, item.metadata)}

    assert await store.delete_where(C, filter) == len(items) - len(rest)
    assert (await everything(store)).keys() == rest
    assert (await store.describe(C)).count == len(rest)


async def test_deleted_items_are_gone(store: Store) -> None:
    await store.put(C, many(30))

    assert await store.delete(C, ["d3", "d4", "d3", "none"]) == 2
    assert await store.get(C, ["d3"]) == {}
    found = {i for matched in await store.search(C, vectors(30), top_k=30) for i in ids(matched)}
    assert found == {f"d{number}" for number in range(30)} - {"d3", "d4"}
    assert (await store.describe(C)).count == 28
    assert (await store.put(C, [item("d3")])).added == 1


async def test_pages_hold_every_item_once(store: Store) -> None:
    items = {item.id: item for item in many(40)}
    await store.put(C, list(items.values()))

    found = await everything(store)
    assert found.keys() == items.keys()
    assert all(same(found[id], items[id]) for id in items)
    assert (await store.page(C, limit=1)).items[0].vector is None


async def test_pages_are_steady_while_others_write(store: Store) -> None:
    await store.put(C, many(40))
    seen: list[str] = []
    after, number = None, 0
    while True:
        page = await store.page(C, after=after, limit=5)
        seen += [item.id for item in page.items]
        await store.put(C, [item(f"new{number}"), item(f"d{number * 4}", towards(3), "好")])
        await store.delete(C, [f"d{number * 4 + 1}"])
        number += 1
        if (after := page.next) is None or number > 100:
            break

    assert len(seen) == len(set(seen))
    assert {f"d{number}" for number in range(40) if number % 4 != 1} <= set(seen)


async def test_the_place_to_go_on_is_checked(store: Store) -> None:
    with pytest.raises(InvalidRequest, match="after"):
        await store.page(C, after="\x00 nonsense", limit=1)


async def test_expired_items_are_never_returned(store: Store) -> None:
    """From the moment itself, by whatever way; an item of the same id is a new one."""
    await store.put(C, [item("gone", expires_at=time.time() + 900), item("stays", expires_at=time.time() + 1000)])
    assert sorted(ids(await nearest(store, towards(0)))) == ["gone", "stays"]
    await store.put(C, [item("gone", expires_at=time.time() + 0.1)])
    await asyncio.sleep(0.2)

    assert ids(await nearest(store, towards(0))) == ["stays"]
    assert ids(await nearest(store, towards(0), filter=parse({}))) == ["stays"]
    assert list(await store.get(C, ["gone", "stays"])) == ["stays"]
    assert list(await everything(store)) == ["stays"]
    assert await store.delete(C, ["gone"]) == 0
    changes = await store.put(C, [item("gone"), item("past", expires_at=time.time() - 5)])
    assert changes.added >= 1 and changes.replaced == 0
    assert (await store.get(C, ["gone", "past"]))["gone"].count == 1
    assert sorted(ids(await nearest(store, towards(0)))) == ["gone", "stays"]


async def test_a_later_end_replaces_an_earlier_one(store: Store) -> None:
    await store.put(C, [item("a", expires_at=time.time() + 0.2), item("b", expires_at=time.time() + 0.2)])
    await store.put(C, [item("a", expires_at=time.time() + 1000), item("b")])
    await asyncio.sleep(0.3)

    assert sorted(ids(await nearest(store, towards(0)))) == ["a", "b"]


async def test_expired_items_make_room(store: Store) -> None:
    soon = time.time() + 0.3
    await store.put(C, [item(f"d{number}", expires_at=soon) for number in range(100)])
    for _ in range(200):
        if (await store.describe(C)).count == 0:
            break
        await asyncio.sleep(0.1)

    assert (await store.describe(C)).count == 0


async def test_a_replacement_takes_the_name(store: Store) -> None:
    await store.put(C, many(5))
    await store.create(".aside", dim=4, fingerprint="f1")
    await store.put(".aside", [item("new", np.eye(4, dtype=np.float32)[0])])

    await store.swap(C, ".aside")

    info = await store.describe(C)
    assert (info.name, info.count, info.dim, info.fingerprint) == (C, 1, 4, "f1")
    assert [info.name for info in await store.list()] == [C]
    assert list(await everything(store)) == ["new"]


async def test_there_is_no_moment_without_a_collection_that_is_replaced(store: Store) -> None:
    await store.put(C, [item("a")])
    stop = asyncio.Event()

    async def search() -> int:
        searches = 0
        while not stop.is_set():
            assert len(await nearest(store, towards(0))) == 1
            searches += 1
        return searches

    searching = asyncio.create_task(search())
    for _ in range(10):
        await store.create(".aside", dim=DIM, fingerprint="f0")
        await store.put(".aside", [item("b")])
        await store.swap(C, ".aside")
    stop.set()
    assert await searching > 0


async def test_a_store_does_what_a_list_would(store: Store) -> None:
    """Random puts, replacements and removals, searched with random filters: every store gives the same answers."""
    chance = np.random.default_rng(5)
    there: dict[str, Item] = {}
    for _ in range(40):
        numbers = chance.integers(0, 200, 20).tolist()
        put = {
            f"d{n}": item(f"d{n}", vector, f"弹幕{n}", metadata={"room": int(chance.integers(5)), "number": n})
            for n, vector in zip(numbers, vectors(20, int(chance.integers(10_000))), strict=True)
        }
        await store.put(C, list(put.values()))
        there |= put
        gone = [f"d{n}" for n in chance.integers(0, 200, 5)]
        await store.delete(C, gone)
        there = {id: each for id, each in there.items() if id not in gone}
        filter = parse(
            {"room": int(chance.integers(6)), "number": {"lt": 150}} if chance.random() < 0.7 else {"not": {"room": 1}}
        )
        if chance.random() < 0.1:
            await store.delete_where(C, filter)
            there = {id: each for id, each in there.items() if not matches(filter, each.metadata)}
        query = vectors(1, int(chance.integers(10_000)))[0]
        scores = {id: float(each.vector @ query) for id, each in there.items() if matches(filter, each.metadata)}
        found = await nearest(store, query, filter=filter)
        assert len(found) == min(10, len(scores))
        best = sorted(scores.values(), reverse=True)[:10]
        np.testing.assert_allclose([match.score for match in found], best, atol=2e-3)
        np.testing.assert_allclose([scores[match.item.id] for match in found], best, atol=2e-3)
    assert (await everything(store)).keys() == there.keys()


async def test_many_write_at_once(store: Store) -> None:
    """Every call counts its own; what is not overwritten is there."""
    calls = [store.put(C, [item(f"d{number}"), item("shared")]) for number in range(200)]
    changes = await asyncio.gather(*calls)

    assert sum(change.added for change in changes) == 201
    assert (await store.get(C, ["shared"]))["shared"].count == 200
    assert (await store.describe(C)).count == 201


async def test_an_item_that_is_replaced_is_always_found(store: Store) -> None:
    await store.put(C, [item("a", towards(0))])
    stop = asyncio.Event()

    async def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await store.put(C, [item("a", towards(number % 2), f"弹幕{number}")])

    replacing = asyncio.create_task(replace())
    for _ in range(200):
        assert ids(await nearest(store, towards(0))) == ["a"]
    stop.set()
    await replacing


async def test_everything_is_there_after_a_restart(store: Store, url: str) -> None:
    items = {item.id: item for item in many(60)}
    await store.put(C, list(items.values()))
    await store.delete(C, ["d7"])
    await store.close()

    again = await open_store(url)
    found = await everything(again)
    assert found.keys() == items.keys() - {"d7"}
    assert all(same(found[id], items[id]) for id in found)
    assert ids((await again.search(C, vectors(60)[8:9], top_k=1))[0]) == ["d8"]
    assert (await again.describe(C)).count == 59
    await again.close()


async def test_a_closed_store_says_so(url: str) -> None:
    store = await open_store(url)
    await store.create(C, dim=DIM, fingerprint="f0")
    await store.close()

    with pytest.raises(StoreUnavailable):
        await store.put(C, [item("a")])
    with pytest.raises(StoreUnavailable):
        await store.search(C, towards(0)[None], top_k=1)
