"""The way to a Redis 8: one server or a cluster, whichever the URL leads to, and its errors in our words.

Nothing is sent twice: when a connection breaks, nobody can tell whether a change was made, and a count would go wrong.
So a caller is told, and decides. Connects when first used, again and again while Redis is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import redis.asyncio
import redis.asyncio.cluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import DataError, OutOfMemoryError, RedisError, ResponseError

from service.errors import ConfigurationError, StorageFull, StoreUnavailable

MAX_CONNECTIONS = 32
CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 10.0  # an exact search of a large collection takes its time

Client = redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster


class Gone(Exception):
    """The keys that were asked for are not there any more: their collection was dropped or replaced."""


class Connection:
    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)  # a cluster's client refuses instead of waiting
        self._is_closed = False

    async def call(self, *command: Any) -> Any:
        """What Redis answers. Raises Gone, StorageFull, StoreUnavailable; ConfigurationError if it is no Redis 8."""
        (answer,) = await self.calls([command])
        return answer

    async def calls(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The same for commands about keys of one slot, which are carried out in order."""
        if self._is_closed:
            raise StoreUnavailable("the store of collections is closing")
        cancelled_before = _cancelled()
        try:
            async with self._free:
                client = self._client or await self._connect()
                answers = await _answers(client, commands)
        except (RedisError, OSError, TimeoutError) as error:
            if _cancelled() > cancelled_before:
                raise asyncio.CancelledError from None  # which an error while the connection was closed had replaced
            raise _translated(error) from None
        if _cancelled() > cancelled_before:
            # redis-py sends within wait_for, which before Python 3.12 forgets a cancellation that comes at its end.
            raise asyncio.CancelledError
        return answers

    async def script(self, source: str, keys: Sequence[str], *arguments: Any) -> Any:
        """EVAL with the whole source: Redis knows it after the first time, and no server of a cluster can miss it."""
        return await self.call("EVAL", source, len(keys), *keys, *arguments)

    async def servers(self) -> int:
        """Over how many a collection can be spread."""
        await self.call("PING")
        client = await self._connect()
        return 1 if isinstance(client, redis.asyncio.Redis) else len(client.get_primaries())

    async def close(self) -> None:
        self._is_closed = True
        if self._client is not None:
            await self._client.aclose()

    async def _connect(self) -> Client:
        async with self._connecting:
            if self._client is None:
                self._client = await self._connected()
            return self._client

    async def _connected(self) -> Client:
        """Raises ConfigurationError if the URL is none, or leads to a Redis that cannot hold collections."""
        settings: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": ANSWER_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "max_connections": MAX_CONNECTIONS,
        }
        try:
            server = redis.asyncio.Redis.from_url(self._url, **settings)
        except ValueError as error:
            raise ConfigurationError(f"the URL of the collections cannot be used: {error}") from None
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.aclose)
            facts = await server.info()
            version = str(facts["redis_version"])
            if int(version.split(".")[0]) < 8:
                raise ConfigurationError(f"collections need Redis 8, for its vector sets; this one is {version}")
            policy = str(facts["maxmemory_policy"])
            if facts["maxmemory"] and policy.startswith("allkeys"):
                raise ConfigurationError(
                    f"this Redis drops keys when it is full, and a key of collections is thousands of danmaku: "
                    f"set its maxmemory-policy to noeviction instead of {policy}"
                )
            if facts["redis_mode"] != "cluster":
                stack.pop_all()
                return server
        cluster = redis.asyncio.cluster.RedisCluster.from_url(self._url, **settings)
        return await cluster.initialize()


async def _answers(client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    if len(commands) == 1:
        return [await client.execute_command(*commands[0])]
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return list(await pipeline.execute())


def _cancelled() -> int:
    """How often this task was asked to end."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _translated(error: Exception) -> Exception:
    """Its own words may hold an address, and that a password."""
    if isinstance(error, OutOfMemoryError):
        return StorageFull("Redis has no memory left for this: it is at its maxmemory")
    if isinstance(error, ResponseError) and str(error).startswith("GONE"):
        return Gone()
    if isinstance(error, ResponseError) and str(error).startswith("MISCONF"):
        return StorageFull("Redis takes no changes, because it cannot write to its disk")
    if type(error) in (ResponseError, DataError):
        return error  # a command that is none: our mistake
    return StoreUnavailable(f"Redis, which holds the collections, cannot be used ({type(error).__name__})")
