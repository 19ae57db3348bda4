"""Collections in a real Redis 8: behaviour beyond the contract of every store, and failures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time

import pytest
import redis
from processes import RunningRedis, free_ports, running_redis, running_redis8
from stored import DIM, C, Opening, ids, item, items, nearest, until, until_passed, vectors

from service.errors import ConfigurationError, InvalidRequest, NotFound, StorageFull, StoreUnavailable
from service.stores.open import open_store
from service.stores.redis import shard as redis_shard
from service.stores.redis.store import DROPPED, SWEEPER, TABLE, RedisStore

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
    with pytest.raises(InvalidRequest, match="expected 4"):
        await other.put(C, [item("a", a)])


async def test_other_stores_see_a_replacement_at_once(opening: Opening) -> None:
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


async def test_a_dropped_collection_leaves_no_keys(opening: Opening, admin: redis.Redis) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=3)
    await store.put(C, items(20, expires_at=time.time() + 100))
    await store.create(".aside", dim=DIM, fingerprint="f0", shards=2)
    await store.put(".aside", items(5))
    await store.swap(C, ".aside")
    await store.drop(C)

    assert keys(admin) == []


async def test_another_process_finishes_the_drop_of_a_killed_one(opening: Opening, admin: redis.Redis) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=3)
    await store.put(C, items(20))
    record = admin.hget(TABLE, C)
    assert isinstance(record, bytes)
    admin.hdel(TABLE, C)  # as far as it came
    admin.sadd(DROPPED, record)

    await until(lambda: not keys(admin))


async def test_one_process_sweeps_at_a_time(opening: Opening, admin: redis.Redis) -> None:
    """A second process does not sweep meanwhile; a killed one blocks others only for seconds."""
    admin.set(SWEEPER, "", ex=600)
    store = await opening(sweep_every_s=0.01)
    await store.create(C, dim=DIM, fingerprint="f0")
    ends = time.time() + 0.1
    await store.put(C, items(10, expires_at=ends))
    await until_passed(ends)
    refused = admin.info("commandstats")["cmdstat_eval"]["calls"]
    await until(lambda: admin.info("commandstats")["cmdstat_eval"]["calls"] > refused + 5)  # it tried
    assert (await store.describe(C)).count == 10

    admin.expire(SWEEPER, 1)

    async def is_swept() -> bool:
        return (await store.describe(C)).count == 0

    await until(is_swept)


def keys(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter() if b"sweeper" not in key]


async def test_shards_are_spread_over_a_cluster(
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


# Failures


async def test_a_redis_that_is_too_old_is_refused() -> None:
    with running_redis() as server:
        with redis.Redis.from_url(server.url) as client:
            if int(client.info()["redis_version"].split(".")[0]) >= 8:
                pytest.skip("the redis-server that is installed is not too old")
        with pytest.raises(ConfigurationError, match="need Redis 8.* this one is"):
            await open_store(server.url)


async def test_a_redis_that_may_evict_collections_is_refused() -> None:
    with (
        running_redis8("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as server,
        pytest.raises(ConfigurationError, match="noeviction instead of allkeys-lru"),
    ):
        await open_store(server.url)


async def test_an_invalid_url_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError) as refused:
        await open_store("redis://:secret@host:port/0")

    assert "secret" not in str(refused.value)


async def test_an_unreachable_redis_is_named_and_used_again_later(opening: Opening) -> None:
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


async def test_a_sweeping_store_closes_while_redis_is_unreachable() -> None:
    with running_redis8() as server:
        store = await RedisStore.open(server.url, sweep_every_s=0)
        await store.create(C, dim=DIM, fingerprint="f0")
        with redis.Redis.from_url(server.url) as client:
            await store.put(C, items(100, expires_at=time.time() - 1))
            await until(lambda: bool(client.exists(SWEEPER)))
        server.process.kill()

    await asyncio.wait_for(store.close(), 10)


async def test_a_store_closes_at_any_moment_of_its_sweep(empty_redis_cluster: str) -> None:
    """This includes the sending of a command, where redis-py may lose the cancellation."""
    chance = random.Random(0)
    for _ in range(20):
        store = await RedisStore.open(empty_redis_cluster, sweep_every_s=0)
        await asyncio.sleep(chance.random() / 200)
        await asyncio.wait_for(store.close(), 30)


async def test_a_lost_shard_is_named_and_the_others_are_changed_once(opening: Opening, admin: redis.Redis) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=2)
    await store.put(C, items(20))
    lost, kept = (f"danmaku:{key.decode().split(':', 1)[1].rsplit(':', 1)[0]}" for key in admin.scan_iter("*:open"))
    admin.delete(*admin.scan_iter(f"{lost}:*"))
    held = dict(admin.hgetall(f"{kept}:items"))

    with pytest.raises(StoreUnavailable, match=f"lost part of the collection {C}"):
        await store.put(C, items(20))
    with pytest.raises(StoreUnavailable, match="lost part"):
        await nearest(store, vectors(1)[0])
    counts = [redis_shard.HEADER.unpack_from(value)[1] for value in admin.hgetall(f"{kept}:items").values()]
    assert counts == [2] * len(held)
    await store.drop(C)
    assert keys(admin) == []


async def test_a_hanging_redis_times_out(opening: Opening) -> None:
    with running_redis8() as server:
        store = await opening(server.url, answer_timeout_s=0.5)
        await store.create(C, dim=DIM, fingerprint="f0")
        os.kill(server.process.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="Redis"):
            await store.put(C, items(1))
        os.kill(server.process.pid, signal.SIGCONT)
        await store.put(C, [item("late", vectors(1)[0])])
        assert "late" in ids(await nearest(store, vectors(1)[0]))


async def test_a_full_redis_refuses_items_completely(opening: Opening) -> None:
    """Stored items are still found, and expiring ones make room."""
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

        async def fits() -> bool:
            with contextlib.suppress(StorageFull):
                await store.put(C, [item("one", vectors(1)[0])])
            return "one" in await store.get(C, ["one"])

        await until(fits)
