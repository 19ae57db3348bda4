"""Many collections cost no more than a few, and neither filters nor additions harm other collections."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ClientOf

from service.errors import InvalidRequest
from service.settings import Settings
from service.stores.base import Item
from service.stores.filters import MAX_CONDITIONS, MAX_FIELDS, parse
from service.stores.sqlite.store import SqliteStore

ITEMS = 20_000
DIM = 4


async def filled(directory: Path) -> SqliteStore:
    """A store with a collection `large` of 20,000 items, and an empty one, `other`."""
    store = await SqliteStore.open(directory)
    for name in ("large", "other"):
        await store.create(name, dim=DIM, fingerprint="f")
    vectors = np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [Item(str(n), "text", vector, {"room": n % 100}) for n, vector in enumerate(vectors)]
    await store.put("large", items)
    return store


@pytest.mark.parametrize(
    "filter",
    [
        {"and": [{"zz": 1}, *[{}] * 300_000]},
        {"or": [{}] * (MAX_CONDITIONS + 1)},
        {f"field {n}": 1 for n in range(255)},
        {"and": [{f"field {n}": 1} for n in range(MAX_FIELDS + 1)]},
        {"x" * 1_000_000: {"in": []}, "y": {"unknown": ["z" * 1_000_000]}},
    ],
)
def test_an_expensive_filter_is_refused_at_once(filter: dict[str, object]) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest) as refused:
        parse(filter)
    assert time.process_time() - started < 0.1
    assert len(str(refused.value)) < 500


async def test_reading_new_fields_holds_no_change_up(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    vector = np.ones(DIM, np.float32) / 2
    try:
        filters = [parse({f"{n} {field}": 1 for field in range(MAX_FIELDS)}) for n in range(3)]
        reading = [asyncio.create_task(store.search("large", vector[None], top_k=1, filter=each)) for each in filters]
        writes = 0
        while not all(task.done() for task in reading):
            await store.put("other", [Item(str(writes), "text", vector, {})])
            writes += 1
        assert [await task for task in reading] == [[[]]] * 3
        assert writes >= 3  # before, the first one came after all three
    finally:
        await store.close()


async def test_a_search_out_of_time_stops_reading(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    vector = np.ones(DIM, np.float32) / 2
    try:
        filter = parse({f"field {field}": 1 for field in range(MAX_FIELDS)})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await store.search("large", vector[None], top_k=1, filter=filter)
        # What it left behind does not mislead the next one.
        (matches,) = await store.search("large", vector[None], top_k=3, filter=parse({"room": 7}))
        assert [match.item.metadata["room"] for match in matches] == [7] * 3
    finally:
        await store.close()


async def test_changes_while_fields_are_read_are_in_them(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    vector = np.ones(DIM, np.float32) / 2
    try:
        search = asyncio.create_task(store.search("large", vector[None], top_k=1, filter=parse({"room": 5})))
        await store.put(
            "large", [Item("0", "text", vector, {"room": 1000}), Item("new", "text", vector, {"room": 2000})]
        )
        await store.delete("large", ["5"])
        await search
        for room, expected in ((1000, ["0"]), (2000, ["new"])):
            (matches,) = await store.search("large", vector[None], top_k=5, filter=parse({"room": room}))
            assert [match.item.id for match in matches] == expected
        (matches,) = await store.search("large", vector[None], top_k=1000, filter=parse({"room": 5}))
        assert len(matches) == ITEMS // 100 - 1
    finally:
        await store.close()


async def test_there_is_a_maximum_of_collections_and_of_items(client_of: ClientOf, tmp_path: Path) -> None:
    settings = Settings(collections=f"sqlite://{tmp_path}", max_collections=3, max_collection_items=5)
    async with client_of(settings) as http:
        created = [(await http.put(f"/collections/room{n}")).status_code for n in range(6)]
        assert created.count(200) in (2, 3) and created.count(507) in (3, 4)  # the default one counts, too
        assert (await http.put("/collections/room0")).status_code == 200  # it exists

        full = await http.post("/collections/room0/danmaku", json=[f"text {n}" for n in range(6)])
        assert (full.status_code, full.json()["error_type"]) == (507, "insufficient_storage")
        assert (await http.get("/collections/room0")).json()["count"] == 0
        texts = [f"text {n}" for n in range(5)]
        assert (await http.post("/collections/room0/danmaku", json=texts)).json()["added"] == 5
        assert (await http.post("/collections/room0/danmaku", json=["one more"])).status_code == 507
        await http.delete(
            "/collections/room0/danmaku/" + (await http.get("/collections/room0/danmaku")).json()["danmaku"][0]["id"]
        )
        assert (await http.post("/collections/room0/danmaku", json=["one more"])).status_code == 200


async def test_metrics_of_many_collections_cost_as_much_as_of_two(client_of: ClientOf, tmp_path: Path) -> None:
    """Counted in look-ups of the database, because times depend on the machine."""
    async with client_of(Settings(collections=f"sqlite://{tmp_path}")) as http:
        for number in range(100):
            await http.put(f"/collections/room{number}")
        await http.get("/metrics")
        started = time.process_time()
        for _ in range(20):
            assert (await http.get("/metrics")).status_code == 200
        assert time.process_time() - started < 20 * 0.1
