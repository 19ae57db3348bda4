"""Stores to test; a Redis 8 and a cluster of three servers, started once and emptied for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from processes import RunningRedis, running_redis8, running_redis_cluster
from stored import DIM, C, Opening

from service.stores.base import Store
from service.stores.open import open_store
from service.stores.redis.store import RedisStore


@pytest.fixture(scope="session")
def redis8() -> Iterator[RunningRedis]:
    with running_redis8() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[list[RunningRedis]]:
    with running_redis_cluster() as nodes:
        yield nodes


@pytest.fixture
def empty_redis(redis8: RunningRedis) -> str:
    return _empty([redis8])


@pytest.fixture
def empty_redis_cluster(redis_cluster: list[RunningRedis]) -> str:
    return _empty(redis_cluster)


def _empty(servers: list[RunningRedis]) -> str:
    for server in servers:
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
    return servers[0].url


@pytest.fixture(params=["sqlite", "redis", "redis_cluster"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'collections'}"
    url: str = request.getfixturevalue(f"empty_{request.param}")
    return url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """A store with one empty collection."""
    store = await open_store(url)
    await store.create(C, dim=DIM, fingerprint="f0")
    yield store
    await store.close()


@pytest.fixture
async def opening(empty_redis: str) -> AsyncIterator[Opening]:
    """Opens stores on one Redis and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def open_redis(url: str = empty_redis, **options: Any) -> RedisStore:
            store = await RedisStore.open(url, **options)
            stack.push_async_callback(store.close)
            return store

        yield open_redis


@pytest.fixture
def admin(redis8: RunningRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis8.url) as client:
        yield client
