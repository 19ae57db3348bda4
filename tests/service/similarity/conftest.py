"""A Redis 8 and a cluster of three, started once, empty for each test that asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from processes import RunningRedis, running_redis8, running_redis_cluster


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
    return _emptied([redis8])


@pytest.fixture
def empty_redis_cluster(redis_cluster: list[RunningRedis]) -> str:
    return _emptied(redis_cluster)


def _emptied(servers: list[RunningRedis]) -> str:
    for server in servers:
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
    return servers[0].url
