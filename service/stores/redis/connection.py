"""The connection to a Redis 8, one server or a cluster, with its errors translated into ours.

Nothing is sent twice: after a broken connection nobody can tell whether a change was made, and a count could be added
twice. So the caller gets an error and decides. The connection is made on first use, and retried on each use while Redis
is unreachable.
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
ANSWER_TIMEOUT_S = 10.0  # an exact search of a large collection can take seconds

Client = redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster


class Gone(Exception):
    """The requested keys no longer exist: their collection was dropped or replaced."""


class Connection:
    """A pool of connections, made on first use."""

    def __init__(self, url: str, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._url, self._answer_timeout_s = url, answer_timeout_s
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)  # a cluster's client refuses instead of waiting
        self._is_closed = False

    async def call(self, *command: Any) -> Any:
        """Sends one command and returns the answer.

        Raises Gone, StorageFull, StoreUnavailable, or ConfigurationError if the server is not a Redis 8.
        """
        (answer,) = await self.call_many([command])
        return answer

    async def call_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Does the same for several commands on keys of one slot, which Redis runs in order."""
        if self._is_closed:
            raise StoreUnavailable("the collections are closed")
        cancelled_before = _count_cancellations()
        try:
            async with self._free:
                client = self._client or await self._connect()
                answers = await _send(client, commands)
        except (RedisError, OSError, TimeoutError) as error:
            if _count_cancellations() > cancelled_before:
                raise asyncio.CancelledError from None  # an error while closing the connection had replaced it
            raise _translate_error(error) from None
        if _count_cancellations() > cancelled_before:
            # redis-py sends within wait_for, which before Python 3.12 loses a cancellation that arrives as it ends.
            raise asyncio.CancelledError
        return answers

    async def script(self, source: str, keys: Sequence[str], *arguments: Any) -> Any:
        """Runs a script by EVAL with its whole source: Redis caches it, and it works on every server of a cluster."""
        return await self.call("EVAL", source, len(keys), *keys, *arguments)

    async def count_servers(self) -> int:
        """Returns over how many servers a collection can be spread."""
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
                self._client = await self._open_client()
            return self._client

    async def _open_client(self) -> Client:
        """Connects. Raises ConfigurationError for an invalid URL, or for a Redis that cannot hold collections."""
        settings: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": self._answer_timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "max_connections": MAX_CONNECTIONS,
        }
        try:
            server = redis.asyncio.Redis.from_url(self._url, **settings)
            server.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # checks the URL's options
        except (ValueError, TypeError, RedisError):  # the message may quote the URL, which may contain a password
            raise ConfigurationError(
                "invalid URL of the collections: expected redis://:PASSWORD@HOST:6379/0, with / and @ in the password "
                "written as %2F and %40, and only redis-py's options after ?"
            ) from None
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.aclose)
            facts = await server.info()
            version = str(facts["redis_version"])
            if int(version.split(".")[0]) < 8:
                raise ConfigurationError(f"collections need Redis 8, for its vector sets; this one is {version}")
            policy = str(facts["maxmemory_policy"])
            if facts["maxmemory"] and policy.startswith("allkeys"):
                raise ConfigurationError(
                    "this Redis evicts keys when it is full, and one key holds thousands of danmaku: "
                    f"set its maxmemory-policy to noeviction instead of {policy}"
                )
            if facts["redis_mode"] != "cluster":
                stack.pop_all()
                return server
        cluster = redis.asyncio.cluster.RedisCluster.from_url(self._url, **settings)
        return await cluster.initialize()


async def _send(client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    if len(commands) == 1:
        return [await client.execute_command(*commands[0])]
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return list(await pipeline.execute())


def _count_cancellations() -> int:
    """Returns how often the cancellation of this task was requested."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _translate_error(error: Exception) -> Exception:
    """Returns our error for one of redis-py, without its message: an address in it may hold a password."""
    if isinstance(error, OutOfMemoryError):
        return StorageFull("Redis has reached its maxmemory; this change was not made")
    if isinstance(error, ResponseError) and str(error).startswith("GONE"):
        return Gone()
    if isinstance(error, ResponseError) and str(error).startswith("MISCONF"):
        return StorageFull("Redis refuses changes because it cannot write to its disk")
    if type(error) in (ResponseError, DataError):
        return error  # an invalid command: our bug
    return StoreUnavailable(f"the Redis of the collections is unavailable ({type(error).__name__})")
