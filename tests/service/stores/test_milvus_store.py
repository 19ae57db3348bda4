"""Collections in a real Milvus: behaviour beyond the contract of every store."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from processes import RunningMilvus, free_ports, hang, running_milvus
from stored import DIM, C, ids, item, items, nearest, truly_nearest, until, until_passed, vectors

from service.errors import ConfigurationError, InvalidRequest, NotFound, StorageFull, StoreUnavailable
from service.stores.base import Store
from service.stores.filters import matches, parse
from service.stores.milvus import store as milvus_store
from service.stores.milvus.store import MilvusStore
from service.stores.open import open_store

Opening = Callable[..., Awaitable[MilvusStore]]


@pytest.fixture
async def opening(empty_milvus: str) -> AsyncIterator[Opening]:
    """Opens stores on one Milvus, each as another gateway does, and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def open_milvus(url: str = "", options: str = "", **settings: Any) -> MilvusStore:
            store = await MilvusStore.open((url or empty_milvus) + options, **settings)
            stack.push_async_callback(store.close)
            return store

        yield open_milvus


# Several gateways


async def test_two_gateways_see_each_others_changes_soon(opening: Opening) -> None:
    one, other = await opening(), await opening()
    await one.create(C, dim=DIM, fingerprint="f0")
    a, b = vectors(2)
    await other.put(C, [item("a", a)])
    await until(lambda: found(one, a, ["a"]))
    await one.put(C, [item("b", b)])
    await one.delete(C, ["a"])
    await until(lambda: found(other, a, ["b"]))

    await one.drop(C)
    await until(lambda: is_gone(other))
    with pytest.raises(NotFound):
        await nearest(other, a)
    await one.create(C, dim=4, fingerprint="f1")
    assert (await other.describe(C)).fingerprint == "f1"
    with pytest.raises(InvalidRequest, match="expected 4"):
        await other.put(C, [item("a", a)])


async def test_a_strict_gateway_sees_others_changes_at_once(opening: Opening) -> None:
    one, strict = await opening(), await opening(options="?consistency=strong")
    await one.create(C, dim=DIM, fingerprint="f0")
    for number, vector in enumerate(vectors(20)):
        await one.put(C, [item(f"d{number}", vector)])
        assert ids(await nearest(strict, vector, top_k=1)) == [f"d{number}"]


async def test_other_gateways_see_a_replacement_soon(opening: Opening) -> None:
    one, other = await opening(), await opening()
    a, b, c = vectors(3)
    await one.create(C, dim=DIM, fingerprint="f0")
    await other.put(C, [item("a", a)])
    await one.create(".aside", dim=DIM, fingerprint="f1")
    await one.put(".aside", [item("b", b)])
    await one.swap(C, ".aside")

    await until(lambda: found(other, a, ["b"]))
    await other.put(C, [item("c", c)])
    await until(lambda: found(one, c, ["c", "b"]))


async def test_gateways_that_create_a_collection_at_one_moment_share_it(opening: Opening) -> None:
    stores = [await opening() for _ in range(4)]
    for round_number in range(5):
        name = f"room{round_number}"
        await asyncio.gather(*(store.create(name, dim=DIM, fingerprint="f0") for store in stores))
        await asyncio.gather(*(store.put(name, [item(f"of{each}")]) for each, store in enumerate(stores)))

        async def has_all(name: str = name) -> bool:
            return all([(await store.describe(name)).count == len(stores) for store in stores])

        await until(has_all)


async def test_counts_of_two_gateways_add_up(opening: Opening) -> None:
    one, other = await opening(), await opening()
    await one.create(C, dim=DIM, fingerprint="f0")
    for count in range(1, 11):
        store, reader = (one, other) if count % 2 else (other, one)
        await store.put(C, [item("a")])

        async def is_seen(reader: Store = reader, count: int = count) -> bool:
            held = await reader.get(C, ["a"])
            return "a" in held and held["a"].count == count

        await until(is_seen)


async def found(store: Store, vector: Any, expected: list[str]) -> bool:
    return ids(await nearest(store, vector)) == expected


async def is_gone(store: Store) -> bool:
    try:
        await store.fingerprint(C)
    except NotFound:
        return True
    return False


# Removal


async def test_rows_of_expired_items_and_dropped_collections_are_removed(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_store, "SWEEP_EVERY_S", 0.1)
    monkeypatch.setattr(milvus_store, "CLEAN_AFTER_S", 0.1)
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    await store.put(C, items(20) + [item(f"e{number}", expires_at=time.time() + 0.2) for number in range(10)])
    owner = await store._catalog.find(C)

    async def has_rows(count: int) -> bool:
        columns = await store._connection.query(owner.place, owner.partition, f'owner == "{owner.id}"', ["count(*)"])
        return list(columns["count(*)"]) == [count]

    await until(lambda: has_rows(20))
    assert (await store.describe(C)).count == 20
    await store.drop(C)
    await until(lambda: has_rows(0))
    await until(lambda: owner.id not in {each.id for each in store._catalog.owners})


async def test_a_collection_that_is_made_again_is_empty(opening: Opening) -> None:
    store = await opening()
    for _ in range(3):
        await store.create(C, dim=DIM, fingerprint="f0")
        assert (await store.describe(C)).count == 0
        assert (await store.put(C, items(5))).added == 5
        await store.drop(C)


# Filters


async def test_the_nearest_are_found_behind_many_that_the_expression_lets_through(opening: Opening) -> None:
    """Bounds inside `not` are checked here: most of what Milvus finds does not match."""
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    put = [item(f"d{n}", vector, metadata={"share": n / 1000}) for n, vector in enumerate(vectors(1000))]
    await store.put(C, put)
    among = parse({"not": {"share": {"lt": 0.98}}})
    query = vectors(1, seed=1)[0]

    assert ids(await nearest(store, query, filter=among)) == truly_nearest(put[980:], query)
    assert await store.delete_where(C, among) == 20


async def test_the_index_with_and_without_filters_finds_nearly_all(opening: Opening) -> None:
    """Rows get an index once Milvus has sealed their segment, and can still be replaced and deleted."""
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    put = [item(f"d{n}", vector, metadata={"share": n / 2000}) for n, vector in enumerate(vectors(2000))]
    await store.put(C, put)
    place = (await store._catalog.find(C)).place
    await store._connection.manage("flush", place)

    async def has_index() -> bool:
        state = await store._connection.manage("describe_index", place, "vector")
        return state["pending_index_rows"] == 0 and state["indexed_rows"] >= 2000

    await until(has_index)
    await store.delete(C, ["d0"])
    await store.put(C, [item("d1", -put[1].vector, metadata={"share": 1})])
    put = [item("d1", -put[1].vector, metadata={"share": 1}), *put[2:]]
    queries = vectors(10, seed=1)
    sources: list[Any] = [
        {},
        {"share": {"lt": 0.5}},
        {"not": {"share": {"lt": 0.5}}},
        {"or": [{"share": {"lt": 0.01}}, {"none": 1}]},
        {"share": 0.25},
        {"share": {"lt": 0}},
    ]
    for source in sources:
        among = parse(source)
        meant = [each for each in put if matches(among, each.metadata)]
        found = await store.search(C, queries, top_k=10, filter=among)

        assert all(len(each) == min(10, len(meant)) for each in found), source
        assert all(matches(among, match.item.metadata) for each in found for match in each), source
        hits = sum(
            len({*ids(each)} & {*truly_nearest(meant, query)}) for each, query in zip(found, queries, strict=True)
        )
        assert hits >= 0.9 * sum(map(len, found)), source


async def test_texts_that_milvus_cannot_hold_are_refused(opening: Opening) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    await store.put(C, [item("long", text="草" * 21_000)])
    with pytest.raises(InvalidRequest, match="invalid text: 66000 bytes; expected at most 65535"):
        await store.put(C, [item("longer", text="草" * 22_000), item("b")])

    assert list(await store.get(C, ["long", "longer", "b"])) == ["long"]


# Failures


@pytest.mark.parametrize(
    "url", ["milvus://:secret@", "milvus://u:secret@h:x/d", "milvus://u:secret@h/d?ttl=1", "milvus://h/d?consistency=x"]
)
async def test_an_invalid_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="milvus://USER:PASSWORD@HOST:19530/DATABASE") as refused:
        await open_store(url)

    assert "secret" not in str(refused.value)


async def test_an_unreachable_milvus_is_named_and_used_again_later(opening: Opening, milvus: RunningMilvus) -> None:
    (port,) = free_ports(1)
    store = await opening(f"milvus://root:secret@127.0.0.1:{port}/danmaku", answer_timeout_s=1.0)
    with pytest.raises(StoreUnavailable, match="Milvus") as refused:
        await store.describe(C)
    assert "secret" not in str(refused.value)
    assert refused.value.retry_after_s

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_milvus, to_milvus = await asyncio.open_connection("127.0.0.1", int(milvus.settings["PROXY_PORT"]))
        try:
            await asyncio.gather(pass_on(reader, to_milvus), pass_on(from_milvus, writer))
        finally:
            to_milvus.close()
            writer.close()

    there = await asyncio.start_server(relay, "127.0.0.1", port)
    try:
        await until(lambda: is_there(store))
        assert (await store.put(C, items(1))).added == 1
    finally:
        there.close()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def is_there(store: Store) -> bool:
    try:
        return (await store.create(C, dim=DIM, fingerprint="f0")).count == 0
    except StoreUnavailable:
        return False


async def test_a_user_who_is_refused_is_named_at_the_start(tmp_path: Path) -> None:
    with running_milvus(tmp_path, COMMON_SECURITY_AUTHORIZATIONENABLED="true") as server:
        for user in ("", "root:wr%2Fng@"):
            with pytest.raises(ConfigurationError, match="rejects the user") as refused:
                await open_store(server.url.replace("://", f"://{user}"))
            assert "wr" not in str(refused.value).split()
        store = await open_store(server.url.replace("://", "://root:Milvus@"))
        await store.create(C, dim=DIM, fingerprint="f0")
        assert (await store.put(C, items(3))).added == 3
        await store.close()


async def test_a_full_milvus_refuses_changes(tmp_path: Path) -> None:
    with running_milvus(tmp_path, QUOTAANDLIMITS_LIMITWRITING_FORCEDENY="true") as server:
        store = await open_store(server.url)
        with pytest.raises(StorageFull, match="quota"):
            await store.create(C, dim=DIM, fingerprint="f0")
        await store.close()


async def test_a_hanging_milvus_times_out(opening: Opening, milvus: RunningMilvus) -> None:
    store = await opening(answer_timeout_s=0.5)
    await store.create(C, dim=DIM, fingerprint="f0")
    hang(milvus.process)
    try:
        with pytest.raises(StoreUnavailable, match="Milvus"):
            await store.put(C, items(1))
    finally:
        milvus.process.send_signal(signal.SIGCONT)
    await until(lambda: is_there(store))


async def test_nothing_expires_early_or_late(opening: Opening) -> None:
    """Another gateway's searches, too, never return an item after its end."""
    one, other = await opening(), await opening()
    await one.create(C, dim=DIM, fingerprint="f0")
    ends = time.time() + 1
    put = [item(f"d{n}", vector, expires_at=ends + n / 200) for n, vector in enumerate(vectors(100))]
    await one.put(C, put)
    while time.time() < ends + 0.5:
        for store in (one, other):
            asked = time.time()
            late = [match for match in await nearest(store, vectors(1)[0]) if (match.item.expires_at or 0) <= asked]
            assert late == []
    await until_passed(ends + 0.5)
    assert await nearest(one, vectors(1)[0]) == []
