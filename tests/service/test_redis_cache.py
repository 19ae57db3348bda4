"""The cache in a real Redis: shared, expiring, and never a reason for a request to fail."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import redis.asyncio
from processes import RunningRedis, free_ports, hang, running_redis

from service.cache.base import Cache
from service.cache.open import open_cache
from service.cache.redis import LOOKUP_TICKS, RedisCache
from service.errors import ConfigurationError
from service.metrics import Metrics

FINGERPRINT = "f0"


def vector(number: int) -> bytes:
    return np.full(64, number + 0.125, "<f4").tobytes()


PATIENT = 30_000  # ticks: a busy machine may take longer than 5 ms to answer; what happens then has tests of its own


@pytest.fixture(autouse=True)
def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With connections and writing, too."""
    monkeypatch.setattr("service.cache.redis.SOCKET_TIMEOUT_S", 60.0)


def open_redis_cache(url: str, metrics: Metrics, **settings: Any) -> RedisCache:
    return RedisCache(url, metrics, **({"ttl_s": 60, "lookup_ticks": PATIENT} | settings))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningRedis]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def admin(server: RunningRedis) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(server.url) as admin:
        await admin.flushall()
        yield admin


@pytest.fixture
async def cache(server: RunningRedis, admin: object, metrics: Metrics) -> AsyncIterator[RedisCache]:
    cache = open_redis_cache(server.url, metrics)
    yield cache
    await cache.close()


async def keep(cache: RedisCache, vectors: dict[str, bytes]) -> None:
    """Stores vectors and waits until they are written."""
    await cache.set_many(FINGERPRINT, vectors)
    await cache._to_write.join()


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def test_stored_vectors_are_found(cache: RedisCache) -> None:
    vectors = {f"草{number}": vector(number) for number in range(1500)}
    await keep(cache, vectors)

    assert await cache.get_many(FINGERPRINT, ["none", *vectors]) == vectors


async def test_concurrent_look_ups_get_their_own_results(cache: RedisCache) -> None:
    """They share connections, and some callers leave before their result."""
    vectors = {f"草{number}": vector(number) for number in range(200)}
    await keep(cache, vectors)
    texts = list(vectors)

    async def look_up(number: int) -> bool:
        asked = [texts[(number * 7 + step) % 200] for step in range(1 + number % 5)]
        return await cache.get_many(FINGERPRINT, asked) == {text: vectors[text] for text in asked}

    tasks = [asyncio.create_task(look_up(number)) for number in range(300)]
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
    await asyncio.wait(tasks)

    stayed = [task for task in tasks if not task.cancelled()]
    assert len(stayed) >= 200
    assert all(task.result() for task in stayed)


async def test_another_gateway_finds_them(cache: RedisCache, server: RunningRedis) -> None:
    await keep(cache, {"草": vector(1)})
    other = open_redis_cache(server.url, Metrics())

    assert await other.get_many(FINGERPRINT, ["草"]) == {"草": vector(1)}
    await other.close()


async def test_another_fingerprint_finds_nothing(cache: RedisCache) -> None:
    await keep(cache, {"草": vector(1)})

    assert await cache.get_many("f1", ["草"]) == {}


async def test_values_expire(cache: RedisCache, admin: redis.asyncio.Redis) -> None:
    await keep(cache, {"草": vector(1)})
    (key,) = await admin.keys("danmaku:*")

    assert 0 < await admin.ttl(key) <= 60


async def test_float16_takes_half_the_room(server: RunningRedis, admin: redis.asyncio.Redis, metrics: Metrics) -> None:
    """Gateways of either setting can read it."""
    half, full = (open_redis_cache(server.url, metrics, number_format=name) for name in ("float16", "float32"))
    await keep(half, {"草": vector(1)})
    (key,) = await admin.keys("danmaku:*")

    assert await admin.strlen(key) < 64 * 2 + 16
    assert await full.get_many(FINGERPRINT, ["草"]) == {"草": vector(1)}
    await half.close()
    await full.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: b"",
        lambda value: b"nonsense",
        lambda value: value[:-4],
        lambda value: value + b"\0\0\0\0",
        lambda value: value[:-1] + bytes([value[-1] ^ 1]),
        lambda value: b"x9" + value[2:],
    ],
)
async def test_a_damaged_value_is_a_miss(
    cache: RedisCache, admin: redis.asyncio.Redis, metrics: Metrics, damage: object
) -> None:
    await keep(cache, {"草": vector(1), "好": vector(2)})
    for key in await admin.keys("danmaku:*"):
        value = await admin.get(key)
        if value.endswith(vector(1)):
            await admin.set(key, damage(value))  # type: ignore[operator]

    assert await cache.get_many(FINGERPRINT, ["草", "好"]) == {"好": vector(2)}
    assert counted(metrics, "danmaku_redis_errors_total", kind="damaged") == 1


async def test_a_key_of_another_type_is_a_miss(cache: RedisCache, admin: redis.asyncio.Redis) -> None:
    await keep(cache, {"草": vector(1)})
    (key,) = await admin.keys("danmaku:*")
    await admin.delete(key)
    await admin.lpush(key, "a list")

    assert await cache.get_many(FINGERPRINT, ["草"]) == {}


async def test_an_unreachable_redis_is_a_miss(metrics: Metrics) -> None:
    (port,) = free_ports(1)
    cache = open_redis_cache(f"redis://127.0.0.1:{port}/0", metrics)
    await cache.set_many(FINGERPRINT, {"草": vector(1)})

    for _ in range(5):
        assert await cache.get_many(FINGERPRINT, ["草"]) == {}
        await asyncio.sleep(0.1)
    assert counted(metrics, "danmaku_redis_breaker_open") == 1
    await cache.close()
    assert counted(metrics, "danmaku_redis_unwritten_texts_total") == 1


async def test_a_hanging_redis_costs_milliseconds_and_then_nothing(metrics: Metrics) -> None:
    """It is used again once it answers."""
    with running_redis() as server:
        cache = open_redis_cache(server.url, metrics)
        await keep(cache, {"草": vector(1)})
        await cache.get_many(FINGERPRINT, ["草"])
        cache.lookup_ticks = LOOKUP_TICKS
        hang(server.process)
        waited = 0.0
        for pause_s in (0, 0.15, 0.15):
            await asyncio.sleep(pause_s)
            started = time.monotonic()
            assert await cache.get_many(FINGERPRINT, ["草"]) == {}
            waited += time.monotonic() - started
        skipped = counted(metrics, "danmaku_cache_lookups_total", tier="redis", result="skipped")
        assert await cache.get_many(FINGERPRINT, ["草"]) == {}

        assert waited < 2  # 3 times 5 ms, and not 3 times the socket's timeout; this machine may be busy
        assert counted(metrics, "danmaku_cache_lookups_total", tier="redis", result="skipped") == skipped + 1
        assert counted(metrics, "danmaku_redis_errors_total", kind="timeout") == 3

        server.process.send_signal(signal.SIGCONT)
        cache.lookup_ticks = PATIENT
        for _ in range(400):
            if await cache.get_many(FINGERPRINT, ["草"]):
                break
            await asyncio.sleep(0.05)
        assert await cache.get_many(FINGERPRINT, ["草"]) == {"草": vector(1)}
        assert counted(metrics, "danmaku_redis_breaker_open") == 0
        await cache.close()


async def test_a_hiccup_does_not_open_the_circuit_breaker(server: RunningRedis, metrics: Metrics) -> None:
    """All look-ups of that moment are late; the next ones are sent as before."""
    cache = open_redis_cache(server.url, metrics)
    await keep(cache, {"草": vector(1)})
    cache.lookup_ticks = LOOKUP_TICKS
    hang(server.process)
    lookups = [cache.get_many(FINGERPRINT, ["草"]) for _ in range(16)]
    assert await asyncio.gather(*lookups) == [{}] * 16
    server.process.send_signal(signal.SIGCONT)
    cache.lookup_ticks = PATIENT

    assert await cache.get_many(FINGERPRINT, ["草"]) == {"草": vector(1)}
    assert counted(metrics, "danmaku_cache_lookups_total", tier="redis", result="skipped") == 0
    await cache.close()


async def test_a_slow_redis_opens_the_circuit_breaker(server: RunningRedis, admin: object, metrics: Metrics) -> None:
    """Otherwise every request would wait for it in vain."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", server.port)

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay_s: float) -> None:
            while data := await source.read(65536):
                await asyncio.sleep(delay_s)
                target.write(data)
            target.close()

        await asyncio.gather(pass_on(reader, to_redis, 0.0), pass_on(from_redis, writer, 0.4))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as slow:
        url = f"redis://127.0.0.1:{slow.sockets[0].getsockname()[1]}/0"
        cache = open_redis_cache(url, metrics, lookup_ticks=LOOKUP_TICKS)
        for _ in range(60):  # three of them are enough, if this process had time to see that they are late
            assert await cache.get_many(FINGERPRINT, ["草"]) == {}
            if counted(metrics, "danmaku_redis_breaker_open"):
                break
            await asyncio.sleep(0.3)  # for the answer to come
        assert await cache.get_many(FINGERPRINT, ["草"]) == {}

        assert counted(metrics, "danmaku_redis_breaker_open") == 1
        assert counted(metrics, "danmaku_cache_lookups_total", tier="redis", result="skipped") == 1
        await cache.close()


async def test_a_restarted_redis_is_used_again(metrics: Metrics) -> None:
    with running_redis() as server:
        cache = open_redis_cache(server.url, metrics, first_pause_s=0.1)
        await keep(cache, {"草": vector(1)})
    for _ in range(4):
        assert await cache.get_many(FINGERPRINT, ["草"]) == {}

    with running_redis(port=server.port):
        for _ in range(400):
            await keep(cache, {"草": vector(1)})
            if await cache.get_many(FINGERPRINT, ["草"]):
                break
            await asyncio.sleep(0.05)
        assert await cache.get_many(FINGERPRINT, ["草"]) == {"草": vector(1)}
        await cache.close()


async def test_a_full_redis_is_still_read(metrics: Metrics) -> None:
    with running_redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        cache = open_redis_cache(server.url, metrics)
        await keep(cache, {"草": vector(1)})
        for start in range(0, 20_000, 1000):
            await keep(cache, {f"{number}": vector(1) for number in range(start, start + 1000)})

        assert counted(metrics, "danmaku_redis_errors_total", kind="refused") > 0
        assert counted(metrics, "danmaku_redis_unwritten_texts_total") > 0
        assert counted(metrics, "danmaku_redis_breaker_open") == 0
        assert await cache.get_many(FINGERPRINT, ["草"]) == {"草": vector(1)}
        await cache.close()


async def test_the_log_does_not_contain_the_password(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running_redis("--requirepass", "right") as server:
        cache = open_redis_cache(f"redis://:wrong-secret@127.0.0.1:{server.port}/0", metrics)
        for _ in range(4):
            assert await cache.get_many(FINGERPRINT, ["草"]) == {}
            await asyncio.sleep(0.15)
        await cache.close()

    assert "continuing without it" in caplog.text
    assert "wrong-secret" not in caplog.text


async def test_memory_is_read_before_redis(server: RunningRedis, admin: redis.asyncio.Redis) -> None:
    """What was found in Redis is in memory the next time."""
    first, second = Metrics(), Metrics()

    def open_one(metrics: Metrics) -> Cache:
        return open_cache(server.url, max_bytes=10**6, ttl_s=60, number_format="float32", metrics=metrics)

    writing, reading = open_one(first), open_one(second)
    await writing.set_many(FINGERPRINT, {"草": vector(1)})
    await writing.close()
    for _ in range(400):  # a busy machine may need several attempts
        if await reading.get_many(FINGERPRINT, ["草"]):
            break
        await asyncio.sleep(0.05)
    await admin.flushall()

    assert await reading.get_many(FINGERPRINT, ["草"]) == {"草": vector(1)}
    assert counted(second, "danmaku_cache_lookups_total", tier="memory", result="hit") == 1
    await reading.close()


def test_an_invalid_url_is_refused_without_showing_it(metrics: Metrics) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_redis_cache("redis://:secret@host:port/0", metrics)

    assert "secret" not in str(refused.value)
