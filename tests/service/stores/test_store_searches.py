"""One contract for every store of collections: searching."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import numpy as np
import pytest
from stored import (
    DIM,
    C,
    everything,
    ids,
    item,
    many,
    nearest,
    same,
    towards,
    until_passed,
    vectors,
)

from service.stores.base import Item, Store
from service.stores.filters import Filter, matches, parse
from service.vectors import unit


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

    for found, each in zip(await store.search(C, vectors(50), top_k=1), items, strict=True):
        assert ids(found) == [each.id]
        assert found[0].score == pytest.approx(1, abs=1e-3)
        assert found[0].score <= 1


async def test_min_score_and_top_k_cut_the_list(store: Store) -> None:
    half = unit(np.array([towards(0) + towards(1)]))[0]
    await store.put(C, [item("a", towards(0)), item("b", half), item("c", towards(2))])

    assert ids(await nearest(store, towards(0), min_score=0.5)) == ["a", "b"]
    assert ids(await nearest(store, towards(0), min_score=0.5, top_k=1)) == ["a"]
    assert ids(await nearest(store, towards(0), min_score=0.8)) == ["a"]
    assert ids(await nearest(store, -towards(0), min_score=0.1)) == []


async def test_vectors_are_returned_on_request(store: Store) -> None:
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


async def test_filters_are_exact(store: Store) -> None:
    """The nearest matching items are found, up to top_k."""
    items = many(300)
    await store.put(C, items)
    query = vectors(1, seed=2)[0]
    for source in FILTERS:
        condition = parse(source)
        matching = [item for item in items if matches(condition, item.metadata)]
        expected = sorted(matching, key=lambda item: -float(item.vector @ query))[:10]

        assert ids(await nearest(store, query, filter=condition)) == [item.id for item in expected], source


async def test_filters_follow_changes(store: Store) -> None:
    await store.put(C, [item("a", metadata={"room": 1}), item("b", metadata={"room": 2})])
    in_room = parse({"room": 1})
    assert ids(await nearest(store, towards(0), filter=in_room)) == ["a"]

    await store.put(C, [item("b", metadata={"room": 1}), item("c", metadata={"room": 1}), item("a")])
    assert sorted(ids(await nearest(store, towards(0), filter=in_room))) == ["b", "c"]


async def test_items_are_deleted_by_filter(store: Store) -> None:
    items = many(150)
    for source in FILTERS:
        await store.put(C, items)
        condition = parse(source)
        rest = {item.id for item in items if not matches(condition, item.metadata)}

        assert await store.delete_where(C, condition) == len(items) - len(rest), source
        assert (await everything(store)).keys() == rest, source
        assert (await store.describe(C)).count == len(rest), source


async def test_expired_items_are_never_returned(store: Store) -> None:
    """No call returns them after their time; a later item with the same id is a new one."""
    await store.put(C, [item("gone", expires_at=time.time() + 900), item("stays", expires_at=time.time() + 1000)])
    assert sorted(ids(await nearest(store, towards(0)))) == ["gone", "stays"]
    ends = time.time() + 0.1
    await store.put(C, [item("gone", expires_at=ends)])
    await until_passed(ends)

    assert ids(await nearest(store, towards(0))) == ["stays"]
    assert ids(await nearest(store, towards(0), filter=parse({}))) == ["stays"]
    assert list(await store.get(C, ["gone", "stays"])) == ["stays"]
    assert list(await everything(store)) == ["stays"]
    assert await store.delete(C, ["gone"]) == 0
    changes = await store.put(C, [item("gone"), item("past", expires_at=time.time() - 5)])
    assert changes.added >= 1 and changes.replaced == 0
    assert (await store.get(C, ["gone", "past"]))["gone"].count == 1
    assert sorted(ids(await nearest(store, towards(0)))) == ["gone", "stays"]


async def test_a_collection_exists_at_every_moment_of_its_replacement(store: Store) -> None:
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


async def test_a_store_agrees_with_a_list(store: Store) -> None:
    """After random puts, replacements and removals, searches with random filters give the same results."""
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
        there = {item_id: each for item_id, each in there.items() if item_id not in gone}
        condition = parse(
            {"room": int(chance.integers(6)), "number": {"lt": 150}} if chance.random() < 0.7 else {"not": {"room": 1}}
        )
        if chance.random() < 0.1:
            await store.delete_where(C, condition)
            there = {item_id: each for item_id, each in there.items() if not matches(condition, each.metadata)}
        query = vectors(1, int(chance.integers(10_000)))[0]
        scores = {
            item_id: float(each.vector @ query) for item_id, each in there.items() if matches(condition, each.metadata)
        }
        found = await nearest(store, query, filter=condition)
        assert len(found) == min(10, len(scores))
        best = sorted(scores.values(), reverse=True)[:10]
        np.testing.assert_allclose([match.score for match in found], best, atol=2e-3)
        np.testing.assert_allclose([scores[match.item.id] for match in found], best, atol=2e-3)
    assert (await everything(store)).keys() == there.keys()


async def test_an_item_is_found_during_its_replacement(store: Store) -> None:
    await store.put(C, [item("a", towards(0))])
    stop = asyncio.Event()

    async def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await store.put(C, [item("a", towards(number % 2), f"弹幕{number}")])

    replacing = asyncio.create_task(replace())
    for _ in range(50):
        assert ids(await nearest(store, towards(0))) == ["a"]
    stop.set()
    await replacing


BIG = 32447933084336131  # a danmaku's id; as float64 it equals its neighbours


BIG_FILTERS: list[tuple[Any, str]] = [
    ({"dmid": BIG}, "a"),
    ({"dmid": {"in": [BIG + 2, 5]}}, "cd"),
    ({"dmid": {"gt": BIG}}, "bc"),
    ({"dmid": {"gte": BIG + 1, "lt": BIG + 2}}, "b"),
    ({"not": {"dmid": BIG + 1}}, "acd"),
    ({"dmid": 2**64 - 1}, ""),
    ({"dmid": 5.0}, "d"),
]


async def test_ids_of_danmaku_are_compared_exactly(store: Store) -> None:
    """Filters on large ids find and delete that danmaku, not one with the next id."""
    numbers = {"a": BIG, "b": BIG + 1, "c": BIG + 2, "d": 5}
    for source, meant in BIG_FILTERS:
        await store.put(C, [item(item_id, metadata={"dmid": number}) for item_id, number in numbers.items()])

        assert {*ids(await nearest(store, towards(0), filter=parse(source)))} == {*meant}, source
        assert await store.delete_where(C, parse(source)) == len(meant), source
        assert {*await everything(store)} == {*numbers} - {*meant}, source


async def test_the_largest_valid_filter_is_accepted(store: Store) -> None:
    (vector,) = vectors(1)
    await store.put(C, [item("a", vector, metadata={"room": 255}), item("b", vector, metadata={"room": 256})])
    deep: Any = {"room": {"in": list(range(256))}}
    for _ in range(14):
        deep = {"not": deep}

    assert ids(await nearest(store, vector, filter=parse(deep))) == ["a"]


STRANGE: list[Any] = [
    "", "草", '"', "'", "\\", '" or 1 or "', "') or (1", "a\nb", "\u2028", "3", 3, 3.0, -3, 0, -0.0, True, False, 1,
    2**53, 2**53 + 1, 2**53 + 2, 2**64 - 1, 1e300, 1e-300, -1e-7, 0.1, 1795425804.123456, None, [1], {"a": 1},
]  # fmt: skip
NAMES = ["a", "b", 'f" in .t or "', '"] > 0 or "', "草 x"]


def some_filter(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.choice(["is", "is", "in", "range", "and", "or", "not"] if depth < 3 else ["is", "range"])
    values = [value for value in STRANGE if isinstance(value, str | int | float)]
    numbers = [value for value in values if not isinstance(value, str | bool)]
    field = chance.choice(NAMES)
    if kind == "is":
        return {field: chance.choice(values)}
    if kind == "in":
        return {field: {"in": chance.sample(values, chance.randint(0, 4))}}
    if kind == "range":
        return {field: {sign: chance.choice(numbers) for sign in chance.sample(["gt", "gte", "lt", "lte"], 2)}}
    if kind == "not":
        return {"not": some_filter(chance, depth + 1)}
    return {kind: [some_filter(chance, depth + 1) for _ in range(chance.randint(1, 3))]}


async def test_no_field_or_value_becomes_part_of_an_expression(store: Store) -> None:
    """Random filters mean what `matches` says."""
    chance = random.Random(0)
    put = [
        item(f"d{number}", vector, metadata={field: chance.choice(STRANGE) for field in chance.sample(NAMES, 3)})
        for number, vector in enumerate(vectors(120))
    ]
    await store.put(C, put)
    for _ in range(150):
        among: Filter = parse(some_filter(chance))
        meant = {each.id for each in put if matches(among, each.metadata)}

        assert {*ids(await nearest(store, put[0].vector, filter=among, top_k=120))} == meant, among
