"""A cache in Redis (6 or newer), shared by gateways and kept across restarts.

Redis may be slow, full or gone, or return damaged or unexpected values. Each of these is a miss and a metric, never an
error, and costs little time: 5 ms and 20 µs per text. Three ideas ensure that:

* A look-up has a deadline, which depends only on the number of texts: see `lookups.py`.
* After a period of nothing but failures a circuit breaker opens, and Redis is left alone, each time for longer.
* Vectors are written in the background from a bounded queue; those that do not fit are not written.

A value contains its length and a checksum, so a damaged value is a miss, too; so is a vector that no model can make.
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
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.cache.lookups import Lookups
from service.errors import ConfigurationError
from service.metrics import Metrics

log = logging.getLogger("danmaku")

HEADER = struct.Struct("<2sII")  # number format, bytes of the numbers, CRC-32C of them
NUMBER_BYTES = {b"f4": 4, b"f2": 2}
FORMATS = {"float32": b"f4", "float16": b"f2"}  # numpy's names, always little-endian
LOOKUP_TICKS, TEXTS_PER_TICK = 5, 50  # an MGET may take 5 ticks, and one more for every 50 texts: see `lookups.py`
SOCKET_TIMEOUT_S = 1.0
CONNECTIONS = 4  # for look-ups
KEYS_AT_A_TIME = 512  # in one MGET or one pipeline of SET, during which Redis does nothing else
MAX_WAITING_BATCHES = 256  # batches of vectors in the queue for writing
FAILURES_TO_OPEN = 3
FAILING_S_TO_OPEN = 0.25  # a short stall delays every request in flight; that alone must not open the breaker
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class RedisCache:
    """A `Cache` that connects when it is first used.

    `lookup_ticks`: patience with a look-up, in ticks; `first_pause_s`: how long the breaker stays open at first.
    """

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        ttl_s: int,
        number_format: str = "float32",
        lookup_ticks: int = LOOKUP_TICKS,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        try:
            pool = redis.asyncio.ConnectionPool.from_url(
                url,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=SOCKET_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
            connections = [pool.make_connection() for _ in range(CONNECTIONS)]  # type: ignore[no-untyped-call]  # redis-py has no types here
        except (ValueError, TypeError, RedisError):  # the message may quote the URL, which may contain a password
            raise ConfigurationError(
                "invalid cache URL: expected redis://:PASSWORD@HOST:6379/0, with / and @ in the password written as "
                "%2F and %40, and only redis-py's options after ?"
            ) from None
        self._lookups = [Lookups(connection) for connection in connections]
        self._redis = redis.asyncio.Redis.from_pool(pool)  # for writing
        self._metrics, self._ttl_s = metrics, ttl_s
        self._code = FORMATS[number_format]
        self.lookup_ticks = lookup_ticks
        self._breaker = _Breaker(metrics, first_pause_s)
        self._to_write: asyncio.Queue[tuple[str, Mapping[str, bytes]]] = asyncio.Queue(MAX_WAITING_BATCHES)
        self._writer: asyncio.Task[None] | None = None

    async def get_many(
        self, fingerprint: str, texts: Sequence[str], *, vector_bytes: int | None = None
    ) -> dict[str, bytes]:
        if not self._breaker.allows():
            self._metrics.redis_lookups["skipped"].inc(len(texts))
            return {}
        found: dict[str, bytes] = {}
        try:
            for start in range(0, len(texts), KEYS_AT_A_TIME):
                part = texts[start : start + KEYS_AT_A_TIME]
                command = (b"MGET", *_keys(fingerprint, part))
                least_busy = min(self._lookups, key=attrgetter("pending"))
                values = await least_busy.ask(command, ticks=self.lookup_ticks + len(part) // TEXTS_PER_TICK)
                if not isinstance(values, list) or len(values) != len(part):
                    raise InvalidResponse(f"sent {len(part)} keys, got {_describe(values)} back")
                vectors = {
                    text: vector
                    for text, value in zip(part, values, strict=True)
                    if value is not None and (vector := self._unpack(value, vector_bytes)) is not None
                }
                found |= self._select_finite(vectors)
            self._breaker.record_success()
        except Exception as error:  # hiredis raises anything for an answer that Redis never gives
            # A late answer is not a success, or every request would wait for a slow Redis.
            self._breaker.record_failure(error)
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
        """Waits up to a second for the queue to be written."""
        if self._writer is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SOCKET_TIMEOUT_S):
                    await self._to_write.join()
            while not self._writer.done():
                self._writer.cancel()  # before Python 3.12, redis-py may swallow a cancellation while it sends
                await asyncio.wait([self._writer], timeout=SOCKET_TIMEOUT_S)
        await asyncio.gather(*(lookups.close() for lookups in self._lookups))
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose(close_connection_pool=True)

    async def _write(self) -> None:
        while True:
            fingerprint, vectors = await self._to_write.get()
            try:
                self._metrics.redis_unwritten.inc(len(vectors) - await self._write_batch(fingerprint, vectors))
            finally:
                self._to_write.task_done()

    async def _write_batch(self, fingerprint: str, vectors: Mapping[str, bytes]) -> int:
        """Returns how many vectors were written."""
        if not self._breaker.allows():
            return 0
        items, written = list(vectors.items()), 0
        try:
            for start in range(0, len(items), KEYS_AT_A_TIME):
                async with asyncio.timeout(SOCKET_TIMEOUT_S), self._redis.pipeline(transaction=False) as pipeline:
                    part = items[start : start + KEYS_AT_A_TIME]
                    for key, (_, vector) in zip(_keys(fingerprint, [text for text, _ in part]), part, strict=True):
                        pipeline.set(key, self._pack(vector), ex=self._ttl_s)
                    answers = await pipeline.execute(raise_on_error=False)
                # A full Redis refuses writes but still answers look-ups, so this does not open the breaker.
                refused = sum(isinstance(answer, Exception) for answer in answers)
                self._metrics.redis_errors["refused"].inc(refused)
                written += len(answers) - refused
            self._breaker.record_success()
        except Exception as error:  # as above; the writer must not end
            self._breaker.record_failure(error)
        return written

    def _pack(self, vector: bytes) -> bytes:
        numbers = np.frombuffer(vector, "<f4").astype("<f2").tobytes() if self._code == b"f2" else vector
        return HEADER.pack(self._code, len(numbers), google_crc32c.value(numbers)) + numbers

    def _unpack(self, value: object, vector_bytes: int | None) -> bytes | None:
        """Returns the vector in a value, or None if the value is damaged or has another length."""
        if isinstance(value, bytes) and len(value) > HEADER.size:
            code, length, checksum = HEADER.unpack_from(value)
            numbers = value[HEADER.size :]
            if len(numbers) == length and google_crc32c.value(numbers) == checksum:
                expected = length if vector_bytes is None else vector_bytes // 4 * NUMBER_BYTES.get(code, 0)
                if length == expected and length % NUMBER_BYTES.get(code, 1) == 0:
                    if code == b"f4":
                        return numbers
                    if code == b"f2":
                        return np.frombuffer(numbers, "<f2").astype("<f4").tobytes()
        self._metrics.redis_errors["damaged"].inc()
        return None

    def _select_finite(self, vectors: dict[str, bytes]) -> dict[str, bytes]:
        """Returns the vectors that have only finite numbers: no model makes others."""
        if np.isfinite(np.frombuffer(b"".join(vectors.values()), "<f4")).all():
            return vectors
        finite = {text: each for text, each in vectors.items() if np.isfinite(np.frombuffer(each, "<f4")).all()}
        self._metrics.redis_errors["damaged"].inc(len(vectors) - len(finite))
        return finite


class _Breaker:
    """Closed, it allows everything; open, nothing. After a pause it allows one attempt, whose result decides."""

    def __init__(self, metrics: Metrics, first_pause_s: float) -> None:
        self._metrics, self._first_pause_s = metrics, first_pause_s
        self._failures = 0
        self._failing_since = 0.0
        self._pause_s = first_pause_s
        self._open_until: float | None = None

    def allows(self) -> bool:
        if self._open_until is None:
            return True
        if time.monotonic() < self._open_until:
            return False
        # This is the one attempt; no other is allowed until it has ended.
        self._open_until = time.monotonic() + SOCKET_TIMEOUT_S
        return True

    def record_success(self) -> None:
        self._failures = 0
        if self._open_until is not None:
            log.info("Redis responds again.")
            self._open_until, self._pause_s = None, self._first_pause_s
            self._metrics.redis_breaker_open.set(0)

    def record_failure(self, error: Exception) -> None:
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
            # The error's message may contain the address, and that a password.
            log.warning("Redis does not respond (%s); continuing without it.", type(error).__name__)
        self._open_until = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._metrics.redis_breaker_open.set(1)


def _describe(values: object) -> str:
    return f"{len(values)} values" if isinstance(values, list) else f"a {type(values).__name__}"


def _keys(fingerprint: str, texts: Sequence[str]) -> list[bytes]:
    prefix = b"danmaku:%b:" % fingerprint.encode()
    return [prefix + blake2b(text.encode(), digest_size=16).digest() for text in texts]
