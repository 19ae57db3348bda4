"""Redis killed, hanging, full and with nonsense in it, under 50 requests a second: nobody notices but the metrics."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from load import Expected, SteadyLoad, expected_vectors, some_texts
from processes import RunningRedis, hang, running_redis, serving
from stored import until


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> Expected:
    return expected_vectors(tiny_model, some_texts(3000))


@contextmanager
def gateway(model: Path, server: RunningRedis) -> Iterator[str]:
    """With no memory of its own, so that every text is looked for in Redis."""
    flags = ("--cache", server.url, "--cache-bytes", "0", "--access-log", "false")
    with serving(*flags, model=f"onnx://{model}") as (client, _):
        yield str(client.base_url)


def nobody_noticed(load: SteadyLoad) -> None:
    print(load.tally)
    assert (load.tally.failed, sum(load.tally.refused.values())) == ([], 0)
    assert load.tally.right > 100


async def test_redis_is_killed_and_started_again(tiny_model: Path, expected: Expected) -> None:
    with running_redis() as server, gateway(tiny_model, server) as url:
        async with SteadyLoad(url, expected) as load:
            await load.answer()
            server.process.kill()
            await load.answer(100)
            with running_redis(port=server.port), redis.Redis(port=server.port) as admin:
                await until(lambda: admin.dbsize() > 0)  # it is used again
    nobody_noticed(load)


async def test_redis_hangs(tiny_model: Path, expected: Expected) -> None:
    with running_redis() as server, gateway(tiny_model, server) as url:
        async with SteadyLoad(url, expected) as load:
            await load.answer()
            hang(server.process)
            await load.answer(100)
            server.process.send_signal(signal.SIGCONT)
            await load.answer()
    nobody_noticed(load)


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
async def test_redis_is_full(tiny_model: Path, expected: Expected, policy: str) -> None:
    full = running_redis("--maxmemory", "1mb", "--maxmemory-policy", policy)
    with full as server, gateway(tiny_model, server) as url:
        async with SteadyLoad(url, expected) as load:
            await load.answer(150)
    nobody_noticed(load)


async def test_what_redis_holds_is_damaged(tiny_model: Path, expected: Expected) -> None:
    """Cut, lengthened, of another type, and with a bit turned over."""
    with running_redis() as server, gateway(tiny_model, server) as url, redis.Redis(port=server.port) as admin:
        async with SteadyLoad(url, expected) as load:
            for _ in range(3):
                await load.answer()
                await asyncio.to_thread(damage, admin)
    nobody_noticed(load)


def damage(admin: redis.Redis) -> None:
    for number, key in enumerate(admin.scan_iter()):
        if admin.type(key) != b"string":
            continue
        value = bytearray(admin.get(key) or b"")
        if number % 4 == 0:
            admin.set(key, bytes(value[:-3]))
        elif number % 4 == 1:
            admin.set(key, bytes(value) + b"more")
        elif number % 4 == 2:
            value[-1] ^= 1
            admin.set(key, bytes(value))
        else:
            admin.pipeline().delete(key).rpush(key, "no string").execute()  # at once: the gateway writes meanwhile
