"""Vectors in Redis, shared by gateways and there after a restart. Any version from 6 on will do.

Redis may be slow, full, gone, or hold nonsense: each is a miss and a metric, never an error, and little waiting: 5 ms
and 20 µs a text. Three ideas see to that:

* A look-up has a deadline, which grows with the number of texts alone: see `lookups.py`.
* After a while of nothing but failures a circuit breaker opens, and Redis is left alone, each time for longer.
* Writing happens behind the caller's back, from a bounded queue; what does not fit is not written.

A value carries its length and a checksum, so that a damaged one is a miss, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections.abc import Mapping, Sequence
from contextvars import Context
from hashlib import blake2b
from operator import attrgetter

import google_crc32c
import numpy as np
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.cache.lookups import Lookups
from service.errors import ConfigurationError
from service.metrics import Metrics

log = logging.getLogger("danmaku")

HEADER = struct.Struct("<2sII")  # number format, bytes of the numbers, CRC-32C of them
FORMATS = {"float32": b"f4", "float16": b"f2"}  # numpy's names, always little-endian
PATIENCE, TEXTS_PER_TICK = 5, 50  # an MGET may take 5 ticks, and one more for every 50 texts: see `lookups.py`
SOCKET_TIMEOUT_S = 1.0
CONNECTIONS = 4  # for look-ups
KEYS_AT_A_TIME = 512  # of one MGET, or of one pipeline of SET: Redis does nothing else meanwhile
MAX_WAITING_BATCHES = 256  # of vectors to be written
FAILURES_TO_OPEN = 3
FAILING_S_TO_OPEN = 0.25  # a hiccup of some ms makes all requests of that moment late, and is none of the breaker's
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class RedisCache:
    """See `Cache`. Connects when it is first used; `close` ends what is being written."""

    def __init__(self, url: str, metrics: Metrics, *, ttl_s: int, number_format: str = "float32") -> None:
        try:
            pool = redis.asyncio.ConnectionPool.from_url(
                url,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=SOCKET_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:  # its message may quote the URL, which may hold a password
            raise ConfigurationError(
                "the cache's URL cannot be used: expected such as redis://:PASSWORD@HOST:6379/0, with / and @ of a "
                "password as %2F and %40"
            ) from None
        connections = [pool.make_connection() for _ in range(CONNECTIONS)]  # type: ignore[no-untyped-call]  # of redis-py
        self._lookups = [Lookups(connection) for connection in connections]
        self._redis = redis.asyncio.Redis.from_pool(pool)  # to write
        self._metrics, self._ttl_s = metrics, ttl_s
        self._code = FORMATS[number_format]
        self._breaker = _Breaker(metrics)
        self._to_write: asyncio.Queue[tuple[str, Mapping[str, bytes]]] = asyncio.Queue(MAX_WAITING_BATCHES)
        self._writer: asyncio.Task[None] | None = None

    async def get_many(self, fingerprint: str, texts: Sequence[str]) -> dict[str, bytes]:
        if not self._breaker.lets_through():
            self._metrics.redis_lookups["skipped"].inc(len(texts))
            return {}
        found: dict[str, bytes] = {}
        try:
            for start in range(0, len(texts), KEYS_AT_A_TIME):
                part = texts[start : start + KEYS_AT_A_TIME]
                command = (b"MGET", *_keys(fingerprint, part))
                least_busy = min(self._lookups, key=attrgetter("asked"))
                values = await least_busy.ask(command, ticks=PATIENCE + len(part) // TEXTS_PER_TICK)
                for text, value in zip(part, values, strict=True):
                    if value is not None and (vector := self._read(value)) is not None:
                        found[text] = vector
            self._breaker.succeeded()
        except (RedisError, OSError, TimeoutError) as error:
            # What comes late is no success, or a slow Redis would be waited for again and again.
            self._breaker.failed(error)
        self._metrics.redis_lookups["hit"].inc(len(found))
        self._metrics.redis_lookups["miss"].inc(len(texts) - len(found))
        return found

    async def set_many(self, fingerprint: str, vectors: Mapping[str, bytes]) -> None:
        if self._writer is None:
            # It outlives the request that starts it, so its logs are not of that request.
            self._writer = asyncio.create_task(self._write(), name="write to Redis", context=Context())
        try:
            self._to_write.put_nowait((fingerprint, vectors))
        except asyncio.QueueFull:
            self._metrics.redis_unwritten.inc(len(vectors))

    async def close(self) -> None:
        """Gives what waits to be written a second."""
        if self._writer is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SOCKET_TIMEOUT_S):
                    await self._to_write.join()
            while not self._writer.done():
                self._writer.cancel()  # redis-py may lose one while it sends, before Python 3.12
                await asyncio.wait([self._writer], timeout=SOCKET_TIMEOUT_S)
        await asyncio.gather(*(lookups.close() for lookups in self._lookups))
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose(close_connection_pool=True)

    async def _write(self) -> None:
        while True:
            fingerprint, vectors = await self._to_write.get()
            try:
                self._metrics.redis_unwritten.inc(len(vectors) - await self._written(fingerprint, vectors))
            finally:
                self._to_write.task_done()

    async def _written(self, fingerprint: str, vectors: Mapping[str, bytes]) -> int:
        """How many of them."""
        if not self._breaker.lets_through():
            return 0
        items, written = list(vectors.items()), 0
        try:
            for start in range(0, len(items), KEYS_AT_A_TIME):
                async with asyncio.timeout(SOCKET_TIMEOUT_S), self._redis.pipeline(transaction=False) as pipeline:
                    part = items[start : start + KEYS_AT_A_TIME]
                    for key, (_, vector) in zip(_keys(fingerprint, [text for text, _ in part]), part, strict=True):
                        pipeline.set(key, self._value(vector), ex=self._ttl_s)
                    answers = await pipeline.execute(raise_on_error=False)
                # One that is full refuses what is written, and can be read all the same: that opens no breaker.
                refused = sum(isinstance(answer, Exception) for answer in answers)
                self._metrics.redis_errors["refused"].inc(refused)
                written += len(answers) - refused
            self._breaker.succeeded()
        except (RedisError, OSError, TimeoutError) as error:
            self._breaker.failed(error)
        return written

    def _value(self, vector: bytes) -> bytes:
        numbers = np.frombuffer(vector, "<f4").astype("<f2").tobytes() if self._code == b"f2" else vector
        return HEADER.pack(self._code, len(numbers), google_crc32c.value(numbers)) + numbers

    def _read(self, value: bytes | str) -> bytes | None:
        """The vector, or None if the value is not one."""
        if isinstance(value, bytes) and len(value) > HEADER.size:
            code, length, checksum = HEADER.unpack_from(value)
            numbers = value[HEADER.size :]
            if len(numbers) == length and google_crc32c.value(numbers) == checksum:
                if code == b"f4":
                    return numbers
                if code == b"f2":
                    return np.frombuffer(numbers, "<f2").astype("<f4").tobytes()
        self._metrics.redis_errors["damaged"].inc()
        return None


class _Breaker:
    """Closed, all passes; open, nothing; after its pause one attempt passes, and decides."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failures = 0
        self._failing_since = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._open_until: float | None = None

    def lets_through(self) -> bool:
        if self._open_until is None:
            return True
        if time.monotonic() < self._open_until:
            return False
        # This attempt is the one; until it has ended, others are kept away.
        self._open_until = time.monotonic() + SOCKET_TIMEOUT_S
        return True

    def succeeded(self) -> None:
        self._failures = 0
        if self._open_until is not None:
            log.info("Redis answers again.")
            self._open_until, self._pause_s = None, FIRST_PAUSE_S
            self._metrics.redis_breaker_open.set(0)

    def failed(self, error: Exception) -> None:
        is_late = isinstance(error, TimeoutError | RedisTimeoutError)
        self._metrics.redis_errors["timeout" if is_late else "failed"].inc()
        now = time.monotonic()
        if self._failures == 0:
            self._failing_since = now
        self._failures += 1
        if self._open_until is None and (
            self._failures < FAILURES_TO_OPEN or now - self._failing_since < FAILING_S_TO_OPEN
        ):
            return
        if self._open_until is None:
            # The error's own words may hold the address, and that a password.
            log.warning("Redis does not answer (%s); going on without it.", type(error).__name__)
        self._open_until = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._metrics.redis_breaker_open.set(1)


def _keys(fingerprint: str, texts: Sequence[str]) -> list[bytes]:
    prefix = b"danmaku:%b:" % fingerprint.encode()
    return [prefix + blake2b(text.encode(), digest_size=16).digest() for text in texts]
