"""Collections in a real Redis 8: what they have beyond the contract of every store (`test_stores.py`)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from processes import RunningRedis, free_ports, running_redis, running_redis8

from service.errors import ConfigurationError, InvalidRequest, NotFound, StorageFull, StoreUnavailable
from service.similarity import redis_connection, redis_shard
from service.similarity.base import Item, Match, Store, open_store
from service.similarity.filters import Filter, matches, parse
from service.similarity.ranking import unit
from service.similarity.redis import DROPPED, TABLE, RedisStore

DIM = 16
C = "danmaku"
TOLERANCE = 5e-4  # of a score where vectors are kept in half precision
Opening = Callable[[], Any]


@pytest.fixture
async def opening(empty_redis: str) -> AsyncIterator[Opening]:
    """Opens stores on one Redis, and closes them."""
    async with AsyncExitStack() as stack:

        async def opened(url: str = empty_redis) -> RedisStore:
            store = await RedisStore.open(url)
            stack.push_async_callback(store.close)
            return store

        yield opened


@pytest.fixture
def admin(redis8: RunningRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis8.url) as client:
        yield client


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small collections are searched as large ones are, by the index."""
    monkeypatch.setattr(redis_shard, "EXACT", 0)
    monkeypatch.setattr(redis_shard, "EXACT_FILTERED", 0)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32))


def item(id: str, vector: np.ndarray, text: str = "草", **fields: Any) -> Item:
    return Item(id, text, vector, **({"metadata": {}} | fields))


def items(count: int, **fields: Any) -> list[Item]:
    return [item(f"d{number}", vector, f"弹幕{number}", **fields) for number, vector in enumerate(vectors(count))]


def ids(matched: Sequence[Match]) -> list[str]:
    return [match.item.id for match in matched]


async def nearest(store: RedisStore, query: np.ndarray, **settings: Any) -> list[Match]:
    (found,) = await store.search(C, query[None], **({"top_k": 10} | settings))
    return found


def truly_nearest(among: Sequence[Item], query: np.ndarray, top_k: int = 10) -> list[str]:
    return [item.id for item in sorted(among, key=lambda item: -float(item.vector @ query))[:top_k]]


# Several processes


async def test_two_stores_see_each_others_changes_at_once(opening: Opening) -> None:
    one, other = await opening(), await opening()
    await one.create(C, dim=DIM, fingerprint="f0")
    a, b = vectors(2)
    await other.put(C, [item("a", a)])
    assert ids(await nearest(one, a)) == ["a"]
    await one.put(C, [item("b", b)])
    await one.delete(C, ["a"])
    assert ids(await nearest(other, a)) == ["b"]

    await one.drop(C)
    with pytest.raises(NotFound):
        await other.put(C, [item("a", a)])
    with pytest.raises(NotFound):
        await nearest(other, a)

    await one.create(C, dim=4, fingerprint="f1")
    assert (await other.describe(C)).fingerprint == "f1"
    with pytest.raises(InvalidRequest, match="vectors of 4"):
        await other.put(C, [item("a", a)])


async def test_a_replacement_is_used_at_once_by_who_knew_the_old_one(opening: Opening) -> None:
    one, other = await opening(), await opening()
    a, b, c = vectors(3)
    await one.create(C, dim=DIM, fingerprint="f0")
    await other.put(C, [item("a", a)])
    await one.create(".aside", dim=DIM, fingerprint="f1")
    await one.put(".aside", [item("b", b)])
    await one.swap(C, ".aside")

    assert ids(await nearest(other, a)) == ["b"]
    await other.put(C, [item("c", c)])
    assert sorted(ids(await nearest(one, a))) == ["b", "c"]


async def test_what_was_dropped_leaves_no_keys(opening: Opening, admin: redis.Redis) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=3)
    await store.put(C, items(20, expires_at=time.time() + 100))
    await store.create(".aside", dim=DIM, fingerprint="f0", shards=2)
    await store.put(".aside", items(5))
    await store.swap(C, ".aside")
    await store.drop(C)

    assert keys(admin) == []


async def test_what_a_killed_process_dropped_is_cleared_by_another(opening: Opening, admin: redis.Redis) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=3)
    await store.put(C, items(20))
    record = admin.hget(TABLE, C)
    assert isinstance(record, bytes)
    admin.hdel(TABLE, C)  # as far as it came
    admin.sadd(DROPPED, record)

    assert await until(lambda: not keys(admin))


async def test_one_process_sweeps_at_a_time(opening: Opening, admin: redis.Redis) -> None:
    """A second one leaves it alone; one that was killed keeps others away for seconds only."""
    admin.set("danmaku:{collections}:sweeper", "", ex=600)
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    await store.put(C, items(10, expires_at=time.time() + 0.1))
    await asyncio.sleep(1.5)
    assert (await store.describe(C)).count == 10

    admin.expire("danmaku:{collections}:sweeper", 1)
    for _ in range(200):
        if not (await store.describe(C)).count:
            break
        await asyncio.sleep(0.1)
    assert (await store.describe(C)).count == 0


def keys(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter() if b"sweeper" not in key]


async def until(is_so: Callable[[], bool]) -> bool:
    for _ in range(400):
        if is_so():
            break
        await asyncio.sleep(0.05)
    return is_so()


# Shards


@pytest.mark.parametrize("shards", [1, 2, 7])
async def test_shards_answer_as_one(opening: Opening, shards: int) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=shards)
    put = [item(f"d{number}", vector, metadata={"number": number}) for number, vector in enumerate(vectors(500))]
    await store.put(C, put)

    for query in vectors(10, seed=1):
        assert ids(await nearest(store, query)) == truly_nearest(put, query)
        among = parse({"or": [{"number": {"lt": 30}}, {"number": 77}]})
        meant = [each for each in put if matches(among, each.metadata)]
        assert ids(await nearest(store, query, filter=among)) == truly_nearest(meant, query)
        scores = [match.score for match in await nearest(store, query, top_k=500)]
        np.testing.assert_allclose(scores, np.sort([each.vector @ query for each in put])[::-1], atol=1e-5)


async def test_shards_lie_on_all_servers_of_a_cluster(
    opening: Opening, empty_redis_cluster: str, redis_cluster: list[RunningRedis]
) -> None:
    store = await opening(empty_redis_cluster)
    await store.create(C, dim=DIM, fingerprint="f0")
    await store.put(C, items(60))

    held = []
    for server in redis_cluster:
        with redis.Redis.from_url(server.url) as client:
            held.append(sum(client.execute_command("VCARD", key) for key in client.keys("*vectors")))
    assert sum(held) == 60
    assert min(held) > 5


async def test_a_cluster_answers_as_one_server(opening: Opening, empty_redis_cluster: str) -> None:
    one, cluster = await opening(), await opening(empty_redis_cluster)
    put = items(300)
    for store in (one, cluster):
        await store.create(C, dim=DIM, fingerprint="f0")
        await store.put(C, put)
        await store.delete(C, ["d7"])

    queries = vectors(20, seed=1)
    answers = [await store.search(C, queries, top_k=10, with_vectors=True) for store in (one, cluster)]
    for found, other in zip(*answers, strict=True):
        assert ids(found) == ids(other)
        np.testing.assert_allclose([match.score for match in found], [match.score for match in other], atol=1e-6)


async def test_redis_and_the_embedded_store_answer_alike(
    opening: Opening, empty_redis_cluster: str, tmp_path: Path
) -> None:
    """After the same changes in each: what there is, what is near, with which scores, under which filters."""
    chance = random.Random(1)
    embedded = await open_store(f"sqlite://{tmp_path}")
    stores: list[Store] = [await opening(), await opening(empty_redis_cluster), embedded]
    now = time.time()
    put = [
        item(
            f"d{chance.randrange(300)}",
            vector,
            chance.choice("草哈"),
            metadata={"room": chance.randrange(8), "seconds": chance.random(), "up": chance.choice(["aqua", "mea"])},
            expires_at=chance.choice([None, now - 5, now + 1000]),
            count=chance.randint(1, 3),
        )
        for vector in vectors(400)
    ]
    sources: list[Any] = [
        {},
        {"room": {"in": [1, 2]}, "up": "mea"},
        {"not": {"seconds": {"gte": 0.3}}},
        {"or": [{"room": 3}, {"seconds": {"lt": 0.1}}]},
    ]
    answers = []
    for store in stores:
        await store.create(C, dim=DIM, fingerprint="f0")
        said: list[Any] = []
        for start in range(0, 400, 50):
            await store.put(C, put[start : start + 50])
        said.append(await store.delete_where(C, parse({"room": 7})))
        said.append(await store.delete(C, ["d1", "d2", "none"]))
        held = await store.get(C, [f"d{number}" for number in range(300)])
        said.append([(each.id, each.text, each.metadata, each.expires_at, each.count) for each in held.values()])
        page = await store.page(C, limit=1000)
        said.append(sorted(each.id for each in page.items))
        found = [
            {match.item.id: match.score for match in matched}
            for source in sources
            for matched in await store.search(C, vectors(10, seed=1), top_k=20, filter=parse(source), min_score=0.1)
        ]
        answers.append((said, found))
    await embedded.close()

    (said_first, found_first), *others = answers
    for said, found in others:
        assert said == said_first
        for scores, others_scores in zip(found, found_first, strict=True):
            assert_alike(scores, others_scores)


def assert_alike(scores: dict[str, float], others: dict[str, float]) -> None:
    """The embedded store keeps half precision: what is that near to the end of the list may be on it or not."""
    shared = sorted(scores.keys() & others.keys())
    np.testing.assert_allclose([scores[id] for id in shared], [others[id] for id in shared], atol=TOLERANCE)
    ends = [0.1, min(scores.values(), default=0.1), min(others.values(), default=0.1)]
    for id in scores.keys() ^ others.keys():
        assert min(abs({**scores, **others}[id] - end) for end in ends) < 2 * TOLERANCE
    assert len(shared) >= len(scores) - 2


# Searches by the index


async def test_the_index_finds_nearly_all(opening: Opening, indexed: None) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=2)
    put = items(2000)
    await store.put(C, put)
    queries = vectors(50, seed=1)

    found = await store.search(C, queries, top_k=10)

    hits = sum(len({*ids(each)} & {*truly_nearest(put, query)}) for each, query in zip(found, queries, strict=True))
    assert hits >= 0.95 * 500


@pytest.mark.parametrize(
    ("source", "least"),
    [
        ({"share": {"lt": 0.5}}, 0.9),
        ({"not": {"share": {"lt": 0.5}}}, 0.9),
        ({"share": {"lt": 0.01}}, 1.0),  # fewer than the index is asked for: so all are looked at
        ({"or": [{"share": {"lt": 0.01}}, {"none": 1}]}, 1.0),
        ({"share": {"lt": 0.002}}, 1.0),
        ({"share": {"lt": 0}}, 1.0),
    ],
    ids=str,
)
async def test_the_index_with_a_filter_finds_nearly_all(
    opening: Opening, indexed: None, source: Any, least: float
) -> None:
    """Whether the filter keeps many, few or none, and whether Redis can be told all of it."""
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=2)
    put = [item(f"d{number}", vector, metadata={"share": number / 1000}) for number, vector in enumerate(vectors(1000))]
    await store.put(C, put)
    among = parse(source)
    meant = [each for each in put if matches(among, each.metadata)]
    queries = vectors(10, seed=1)

    found = await store.search(C, queries, top_k=10, filter=among)

    assert all(len(each) == min(10, len(meant)) for each in found)
    assert all(matches(among, match.item.metadata) for each in found for match in each)
    hits = sum(len({*ids(each)} & {*truly_nearest(meant, query)}) for each, query in zip(found, queries, strict=True))
    assert hits >= least * sum(map(len, found))


async def test_where_most_have_expired_the_rest_is_found(
    opening: Opening, indexed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the index still has them."""
    monkeypatch.setattr("service.similarity.redis.SWEEP_EVERY_S", 1000)
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    put = items(500)
    ends = time.time() + 1.5
    await store.put(C, [item(each.id, each.vector, expires_at=ends) for each in put[:490]] + put[490:])
    await asyncio.sleep(max(0, ends - time.time()))

    for query in vectors(5, seed=1):
        assert ids(await nearest(store, query)) == truly_nearest(put[490:], query)
    assert (await store.describe(C)).count == 500


# Filters in Redis' words

STRANGE: list[Any] = [
    "", "草", '"', "'", "\\", '" or 1 or "', "') or (1", "a\nb", "\u2028", "3", 3, 3.0, -3, 0, -0.0, True, False, 1,
    2**53 + 1, 10**300, 1e-300, -1e-7, 0.1, 1795425804.123456, None, [1], {"a": 1},
]  # fmt: skip


def some_filter(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.choice(["is", "is", "in", "range", "and", "or", "not"] if depth < 3 else ["is", "range"])
    values = [value for value in STRANGE if isinstance(value, str | int | float)]
    numbers = [value for value in values if not isinstance(value, str | bool)]
    field = chance.choice(["a", "b", 'f" in .t or "', "草 x"])
    if kind == "is":
        return {field: chance.choice(values)}
    if kind == "in":
        return {field: {"in": chance.sample(values, chance.randint(0, 4))}}
    if kind == "range":
        return {field: {sign: chance.choice(numbers) for sign in chance.sample(["gt", "gte", "lt", "lte"], 2)}}
    if kind == "not":
        return {"not": some_filter(chance, depth + 1)}
    return {kind: [some_filter(chance, depth + 1) for _ in range(chance.randint(1, 3))]}


async def test_filters_mean_in_redis_what_they_mean_elsewhere(opening: Opening, indexed: None) -> None:
    """Whatever fields and values are called: nothing of them is taken for a part of an expression."""
    chance = random.Random(0)
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    put = [
        item(
            f"d{number}",
            vector,
            metadata={field: chance.choice(STRANGE) for field in chance.sample(["a", "b", 'f" in .t or "', "草 x"], 3)},
        )
        for number, vector in enumerate(vectors(120))
    ]
    # JSON knows one kind of number: what is beyond 64 bits comes back as a float.
    put = [item(each.id, each.vector, metadata=as_json(each.metadata)) for each in put]
    await store.put(C, put)
    for _ in range(150):
        among: Filter = parse(some_filter(chance))
        meant = {each.id for each in put if matches(among, each.metadata)}

        assert {*ids(await nearest(store, put[0].vector, filter=among, top_k=120))} == meant, among


def as_json(metadata: Any) -> dict[str, Any]:
    return {field: float(value) if value == 10**300 else value for field, value in metadata.items()}


async def test_the_largest_filter_is_understood(opening: Opening) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    (vector,) = vectors(1)
    await store.put(C, [item("a", vector, metadata={"room": 255}), item("b", vector, metadata={"room": 256})])
    deep: Any = {"room": {"in": list(range(256))}}
    for _ in range(14):
        deep = {"not": deep}

    assert ids(await nearest(store, vector, filter=parse(deep))) == ["a"]


# Trouble


async def test_a_redis_that_is_too_old_is_refused() -> None:
    with running_redis() as server:
        with redis.Redis.from_url(server.url) as client:
            if int(client.info()["redis_version"].split(".")[0]) >= 8:
                pytest.skip("the redis-server that is installed is not too old")
        with pytest.raises(ConfigurationError, match="need Redis 8.* this one is"):
            await open_store(server.url)


async def test_a_redis_that_would_drop_collections_is_refused() -> None:
    with (
        running_redis8("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as server,
        pytest.raises(ConfigurationError, match="noeviction instead of allkeys-lru"),
    ):
        await open_store(server.url)


async def test_a_url_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError) as refused:
        await open_store("redis://:secret@host:port/0")

    assert "secret" not in str(refused.value)


async def test_a_redis_that_is_away_is_named_and_used_when_it_is_back(opening: Opening) -> None:
    (port,) = free_ports(1)
    store = await opening(f"redis://:secret@127.0.0.1:{port}/0")
    with pytest.raises(StoreUnavailable, match="Redis") as refused:
        await store.describe(C)
    assert "secret" not in str(refused.value)
    assert refused.value.retry_after_s

    for _ in range(2):
        with running_redis8("--requirepass", "secret", port=port):
            await store.create(C, dim=DIM, fingerprint="f0")
            assert (await store.put(C, items(1))).added == 1
        with pytest.raises(StoreUnavailable, match="Redis"):
            await nearest(store, vectors(1)[0])


async def test_a_store_closes_while_its_redis_is_away_and_it_sweeps() -> None:
    with running_redis8() as server:
        store = await RedisStore.open(server.url)
        await store.create(C, dim=DIM, fingerprint="f0")
        await store.put(C, items(1000, expires_at=time.time() - 1))
        await asyncio.sleep(1.1)
        server.process.kill()

    await asyncio.wait_for(store.close(), 10)


async def test_a_store_closes_at_whatever_moment_of_its_sweep(
    empty_redis_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a command is being sent, where redis-py may lose the cancellation."""
    monkeypatch.setattr("service.similarity.redis.SWEEP_EVERY_S", 0)
    chance = random.Random(0)
    for _ in range(20):
        store = await RedisStore.open(empty_redis_cluster)
        await asyncio.sleep(chance.random() / 200)
        await asyncio.wait_for(store.close(), 30)


async def test_a_lost_shard_is_named_and_the_others_are_changed_once(opening: Opening, admin: redis.Redis) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=2)
    await store.put(C, items(20))
    lost, kept = (f"danmaku:{key.decode().split(':', 1)[1].rsplit(':', 1)[0]}" for key in admin.scan_iter("*:open"))
    admin.delete(*admin.scan_iter(f"{lost}:*"))
    held = dict(admin.hgetall(f"{kept}:items"))

    with pytest.raises(StoreUnavailable, match=f"lost a part of the collection {C}"):
        await store.put(C, items(20))
    with pytest.raises(StoreUnavailable, match="lost a part"):
        await nearest(store, vectors(1)[0])
    counts = [redis_shard.HEADER.unpack_from(value)[1] for value in admin.hgetall(f"{kept}:items").values()]
    assert counts == [2] * len(held)
    await store.drop(C)
    assert keys(admin) == []


async def test_a_redis_that_hangs_is_given_up_on(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_connection, "ANSWER_TIMEOUT_S", 0.5)
    with running_redis8() as server:
        store = await opening(server.url)
        await store.create(C, dim=DIM, fingerprint="f0")
        os.kill(server.process.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="Redis"):
            await store.put(C, items(1))
        os.kill(server.process.pid, signal.SIGCONT)
        await store.put(C, [item("late", vectors(1)[0])])
        assert "late" in ids(await nearest(store, vectors(1)[0]))


async def test_a_full_redis_says_so_and_keeps_nothing_in_halves(opening: Opening) -> None:
    """What is there is found; what expires makes room."""
    with running_redis8("--maxmemory", "5mb") as server:
        store = await opening(server.url)
        await store.create(C, dim=DIM, fingerprint="f0")
        put = [item(f"d{number}", vectors(1)[0], "草" * 1000, expires_at=time.time() + 6) for number in range(10_000)]
        with pytest.raises(StorageFull, match="maxmemory"):
            await store.put(C, put)

        with redis.Redis.from_url(server.url) as client:
            sizes = {
                client.execute_command(command, client.keys(f"*:{part}")[0])
                for command, part in (("VCARD", "vectors"), ("HLEN", "items"), ("ZCARD", "ids"), ("ZCARD", "ends"))
            }
        assert sizes == {(await store.describe(C)).count}
        assert ids(await nearest(store, vectors(1)[0], top_k=1))
        with pytest.raises(StorageFull):
            await store.put(C, [item("one", vectors(1)[0])])

        for _ in range(300):
            try:
                await store.put(C, [item("one", vectors(1)[0])])
                break
            except StorageFull:
                await asyncio.sleep(0.1)
        assert "one" in await store.get(C, ["one"])
