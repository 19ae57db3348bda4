"""One contract for every store of collections: putting, reading, paging, deleting and expiring items."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from stored import DIM, C, everything, ids, item, many, nearest, same, towards, until, until_passed, vectors

from service.errors import CollectionExists, ConfigurationError, InvalidRequest, NotFound, StoreUnavailable
from service.stores.base import Store
from service.stores.filters import parse
from service.stores.open import open_store


async def test_a_collection_is_described(store: Store) -> None:
    before = await store.describe(C)
    await store.put(C, many(50))
    info = await store.describe(C)

    assert (info.name, info.count, info.dim, info.fingerprint) == (C, 50, DIM, "f0")
    assert info.bytes > before.bytes >= 0
    assert info.created_at == pytest.approx(time.time(), abs=60)
    assert await store.fingerprint(C) == "f0"


async def test_collections_are_listed_by_name(store: Store) -> None:
    await store.create("b", dim=4, fingerprint="f1")
    await store.create("a.b-c_0", dim=4, fingerprint="f1")

    assert [info.name for info in await store.list()] == ["a.b-c_0", "b", C]


async def test_creating_again_changes_nothing(store: Store) -> None:
    await store.put(C, [item("a")])

    assert (await store.create(C, dim=DIM, fingerprint="f0")).count == 1


@pytest.mark.parametrize("other", [{"dim": DIM, "fingerprint": "f1"}, {"dim": 4, "fingerprint": "f0"}])
async def test_a_collection_keeps_its_dimension_and_fingerprint(store: Store, other: dict[str, Any]) -> None:
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


async def test_an_error_names_what_is_missing(store: Store) -> None:
    calls = [
        store.describe("none"),
        store.fingerprint("none"),
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


async def test_a_count_never_exceeds_what_can_be_added(store: Store) -> None:
    """Otherwise an exported item could not be loaded again."""
    for _ in range(2):
        await store.put(C, [item("a", count=2**31 - 1), item("a", count=2**31 - 1)])

    (found,) = (await store.page(C, after=None, limit=10)).items
    assert found.count == 2**31


async def test_counts_of_the_same_text_add_up(store: Store) -> None:
    """They add up between calls and within one; another text starts at its own count. The last put decides the rest."""
    await store.put(C, [item("a")])
    changes = await store.put(C, [item("a", count=3), item("b"), item("a", metadata={"room": 2})])

    assert (changes.added, changes.replaced) == (1, 1)
    found = (await store.get(C, ["a"]))["a"]
    assert (found.count, found.metadata) == (5, {"room": 2})
    assert ids(await nearest(store, towards(0), filter=parse({"room": 2}))) == ["a"]
    await store.put(C, [item("a", text="好", count=2)])
    assert (await store.get(C, ["a"]))["a"].count == 2


async def test_vectors_of_another_length_are_refused(store: Store) -> None:
    """Nothing of the call is stored."""
    with pytest.raises(InvalidRequest, match=f"4 numbers; expected {DIM}.*{C}"):
        await store.put(C, [item("a"), item("b", np.ones(4, np.float32))])
    with pytest.raises(InvalidRequest, match=f"4 numbers; expected {DIM}.*{C}"):
        await nearest(store, np.ones(4, np.float32))

    assert await everything(store) == {}


async def test_empty_calls_are_valid(store: Store) -> None:
    assert (await store.put(C, [])).added == 0
    assert await store.get(C, []) == {}
    assert await store.delete(C, []) == 0
    assert await store.search(C, np.empty((0, DIM), np.float32), top_k=3) == []
    assert await nearest(store, towards(0)) == []


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
    assert all(same(found[item_id], items[item_id]) for item_id in items)
    assert (await store.page(C, limit=1)).items[0].vector is None


async def test_pages_are_consistent_during_writes(store: Store) -> None:
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


async def test_the_cursor_of_a_page_is_checked(store: Store) -> None:
    with pytest.raises(InvalidRequest, match="after"):
        await store.page(C, after="\x00 nonsense", limit=1)


async def test_a_later_end_replaces_an_earlier_one(store: Store) -> None:
    ends = time.time() + 0.2
    await store.put(C, [item("a", expires_at=ends), item("b", expires_at=ends)])
    await store.put(C, [item("a", expires_at=time.time() + 1000), item("b")])
    await until_passed(ends)

    assert sorted(ids(await nearest(store, towards(0)))) == ["a", "b"]


async def test_expired_items_make_room(store: Store) -> None:
    soon = time.time() + 0.3
    await store.put(C, [item(f"d{number}", expires_at=soon) for number in range(100)])

    async def is_empty() -> bool:
        return (await store.describe(C)).count == 0

    await until(is_empty)


async def test_a_replacement_takes_the_name(store: Store) -> None:
    await store.put(C, many(5))
    await store.create(".aside", dim=4, fingerprint="f1")
    await store.put(".aside", [item("new", np.eye(4, dtype=np.float32)[0])])

    await store.swap(C, ".aside")

    info = await store.describe(C)
    assert (info.name, info.count, info.dim, info.fingerprint) == (C, 1, 4, "f1")
    assert [info.name for info in await store.list()] == [C]
    assert list(await everything(store)) == ["new"]


async def test_a_name_is_listed_once_during_a_replacement(store: Store) -> None:
    async def replacing() -> None:
        for _ in range(10):
            await store.create(".aside", dim=DIM, fingerprint="f0")
            await store.swap(C, ".aside")

    replaced = asyncio.create_task(replacing())
    lists = []
    while not replaced.done():
        lists.append([info.name for info in await store.list()])
    await replaced

    assert len(lists) > 5
    assert all(names in ([C], [".aside", C]) for names in lists)


async def test_concurrent_writes(store: Store) -> None:
    """Every call counts its own items, and no item is lost."""
    calls = [store.put(C, [item(f"d{number}"), item("shared")]) for number in range(200)]
    changes = await asyncio.gather(*calls)

    assert sum(change.added for change in changes) == 201
    assert (await store.get(C, ["shared"]))["shared"].count == 200
    assert (await store.describe(C)).count == 201


async def test_everything_survives_a_restart(store: Store, url: str) -> None:
    items = {item.id: item for item in many(60)}
    await store.put(C, list(items.values()))
    await store.delete(C, ["d7"])
    await store.close()

    again = await open_store(url)
    found = await everything(again)
    assert found.keys() == items.keys() - {"d7"}
    assert all(same(found[item_id], items[item_id]) for item_id in found)
    assert ids((await again.search(C, vectors(60)[8:9], top_k=1))[0]) == ["d8"]
    assert (await again.describe(C)).count == 59
    await again.close()


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:6379/0", "sqlite://", "secret"])
async def test_another_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected sqlite:///PATH or milvus://HOST:19530/DATABASE") as refused:
        await open_store(url)

    assert "secret" not in str(refused.value)
    assert ("redis://" in str(refused.value)) == url.startswith("redis")


async def test_a_closed_store_says_so(url: str) -> None:
    store = await open_store(url)
    await store.create(C, dim=DIM, fingerprint="f0")
    await store.close()

    with pytest.raises(StoreUnavailable):
        await store.put(C, [item("a")])
    with pytest.raises(StoreUnavailable):
        await store.fingerprint(C)
    with pytest.raises(StoreUnavailable):
        await store.search(C, towards(0)[None], top_k=1)
