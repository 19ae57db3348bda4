"""Turns many small concurrent requests into few model calls on texts of similar length.

Six ideas, worth knowing before changing anything here:

1. The future is shared, not the vector. A text on its way to the encoder is never sent twice; the next caller that
   needs it waits for the same future. In a live chat the texts in flight are the same few words.
2. There is no timer. While the encoder is busy, texts gather by themselves; when it is idle, waiting gains nothing.
3. Texts wait in one bucket per length. A call starts at the bucket whose head has waited longest, so nothing starves,
   and adds shorter texts while its token budget lasts. Much shorter ones wait for another call: encoders pad at least
   attention to the longest text of a call.
4. There are two lanes. A bot's single text does not wait behind a list of 10,000: requests of few texts go first, in
   short calls of their own. Every fourth call serves the long lists, so they make progress too.
5. A call belongs to one model. While another takes over, texts prepared for either may be waiting.
6. A caller can leave at any moment. Futures are waited for, never awaited directly, so a caller's cancellation does not
   reach them; a text that no caller waits for any more leaves the queue at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from service.encoders.model import Prepared
from service.errors import DanmakuError, EncoderFailure, EncoderUnavailable, Overloaded
from service.metrics import BatcherMetrics

log = logging.getLogger("danmaku")

V = TypeVar("V")  # what the encode function returns for one text

SHORTEST_SHARE = 0.25  # of the tokens of a batch's longest text: shorter texts would be mostly padding
MAX_OVERTAKING_CALLS = 3  # consecutive calls of the quick lane while the bulk lane waits
MAX_RETRY_AFTER_S = 60
HIGH_WATER = 0.8  # share of the queue above which the service reports an obstacle, while it still accepts texts
# After this many failed calls in a row the encoder counts as broken. After this many seconds without another failure it
# may be tried again: a gateway that gets no requests because it is not ready would otherwise never recover.
BROKEN_AFTER_FAILURES = 3
TRY_AGAIN_AFTER_S = 10.0


@dataclass(slots=True, eq=False)
class _Waiting(Generic[V]):
    prepared: Prepared
    vector: asyncio.Future[V]
    since: float
    lane: Lane[V]
    callers: int = 0


Key = tuple[str, str]  # `Prepared.key`
Lane = dict[int, dict[Key, _Waiting[V]]]  # queued texts: number of tokens → by key, in order of arrival


class Batcher(Generic[V]):
    """An async context manager; within it any number of tasks may call `encode`.

    The given function runs up to `concurrency()` times at once (at least once), each time with at most `max_batch_size`
    texts and `max_batch_tokens` tokens without padding, or with one text. It returns one result per text. Requests of
    up to `priority_batch_size` texts overtake longer ones. `clock` returns seconds.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Prepared]], Awaitable[Collection[V]]],
        *,
        concurrency: Callable[[], int],
        max_batch_tokens: int,
        max_queue_texts: int,
        metrics: BatcherMetrics,
        max_batch_size: int = 1024,
        priority_batch_size: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encode = encode
        self._concurrency = concurrency
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_size = max_batch_size
        self._max_queue_texts = max_queue_texts
        self._priority_batch_size = priority_batch_size
        self._metrics = metrics
        self._clock = clock
        self._waiting: dict[Key, _Waiting[V]] = {}  # queued or being encoded
        self._quick: Lane[V] = {}
        self._bulk: Lane[V] = {}
        self._overtaking_calls = 0
        self._queued = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._dispatch_is_due = False
        self._is_open = False
        self._texts_per_s = 0.0  # moving average
        self._failures = 0  # calls that failed since the last successful one
        self._failed_at = 0.0

    async def __aenter__(self) -> Batcher[V]:
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Lets the calls in flight finish; queued texts fail with EncoderUnavailable."""
        self._is_open = False
        queued = [
            waiting for lane in (self._quick, self._bulk) for bucket in lane.values() for waiting in bucket.values()
        ]
        for waiting in queued:
            self._dequeue(waiting)
        self._fail(queued, EncoderUnavailable("the service is stopping"))
        if self._calls:
            await asyncio.wait(self._calls)

    @property
    def obstacle(self) -> str | None:
        """Why texts sent now would not be embedded, or None."""
        if not self._is_open:
            return "the service is stopping"
        if self._queued >= HIGH_WATER * self._max_queue_texts:
            return f"{self._queued} texts are waiting in a queue of {self._max_queue_texts}"
        if self._failures >= BROKEN_AFTER_FAILURES and self._clock() - self._failed_at < TRY_AGAIN_AFTER_S:
            return f"the encoder failed its last {self._failures} calls"
        return None

    def check_room(self, keys: Iterable[Key]) -> None:
        """Raises Overloaded if texts with these distinct keys do not fit in the queue now."""
        new = sum(key not in self._waiting for key in keys)
        if self._queued + new > self._max_queue_texts:
            self._metrics.refused_texts.inc(new)
            raise self._overloaded(new)

    async def encode(self, texts: Sequence[Prepared]) -> list[V]:
        """Returns one result per text, in order.

        Accepts all of the texts or none: raises Overloaded if they do not fit in the queue now, EncoderUnavailable when
        the service is stopping, EncoderFailure if a model call failed.
        """
        if not self._is_open:
            raise EncoderUnavailable("the service is stopping")
        self.check_room(prepared.key for prepared in texts)
        lane = self._quick if len(texts) <= self._priority_batch_size else self._bulk
        waiting = [self._join(prepared, lane) for prepared in texts]
        try:
            if waiting:
                await asyncio.wait({w.vector for w in waiting}, return_when=asyncio.FIRST_EXCEPTION)
            # A failure has to be raised before the loop below meets a future that is not done because of it.
            for w in waiting:
                if w.vector.done():
                    w.vector.result()
            return [w.vector.result() for w in waiting]
        finally:
            for w in waiting:
                self._leave(w)

    def _join(self, prepared: Prepared, lane: Lane[V]) -> _Waiting[V]:
        waiting = self._waiting.get(prepared.key)
        if waiting is None:
            waiting = _Waiting(prepared, asyncio.get_running_loop().create_future(), self._clock(), lane)
            self._waiting[prepared.key] = waiting
            self._enqueue(waiting)
            self._dispatch_soon()
        elif lane is self._quick and waiting.lane is self._bulk and self._is_queued(waiting):
            self._dequeue(waiting)
            waiting.lane = lane
            self._enqueue(waiting)
        waiting.callers += 1
        return waiting

    def _leave(self, waiting: _Waiting[V]) -> None:
        waiting.callers -= 1
        if waiting.callers == 0 and self._is_queued(waiting):
            self._dequeue(waiting)
            del self._waiting[waiting.prepared.key]
            self._metrics.expired_texts.inc()

    def _dispatch_soon(self) -> None:
        # Runs after the tasks that are ready now, so their texts join the same call.
        if not self._dispatch_is_due:
            self._dispatch_is_due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        while self._queued and len(self._calls) < max(1, self._concurrency()):
            # In an empty context: a batch serves several requests, so its logs must not carry the id of one of them.
            call = asyncio.create_task(self._call(self._next_batch()), name="encode", context=Context())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            call.add_done_callback(lambda _: self._dispatch_soon())

    def _next_batch(self) -> list[_Waiting[V]]:
        overtakes = bool(self._quick) and (not self._bulk or self._overtaking_calls < MAX_OVERTAKING_CALLS)
        self._overtaking_calls = self._overtaking_calls + 1 if overtakes and self._bulk else 0
        # A quick call carries no bulk texts, which would slow it down; a bulk call has room for quick ones at its end.
        lanes = (self._quick,) if overtakes else (self._bulk, self._quick)
        heads = (next(iter(bucket.values())) for bucket in lanes[0].values())
        head = min(heads, key=lambda waiting: waiting.since)
        longest, fingerprint = head.prepared.num_tokens, head.prepared.fingerprint
        batch: list[_Waiting[V]] = []
        tokens = self._max_batch_tokens
        for lane in lanes:
            for length in range(longest, math.ceil(longest * SHORTEST_SHARE) - 1, -1):
                room = min(self._max_batch_size - len(batch), tokens // length)
                alike = (w for w in lane.get(length, {}).values() if w.prepared.fingerprint == fingerprint)
                chosen = list(islice(alike, max(room, 0 if batch else 1)))
                batch += chosen
                tokens -= length * len(chosen)
        for waiting in batch:
            self._dequeue(waiting)
        return batch

    async def _call(self, batch: list[_Waiting[V]]) -> None:
        started = self._clock()
        for waiting in batch:
            self._metrics.queue_seconds.observe(started - waiting.since)
        self._metrics.in_flight_texts.inc(len(batch))
        try:
            vectors = await self._encode([waiting.prepared for waiting in batch])
            if len(vectors) != len(batch):
                raise EncoderFailure(f"sent {len(batch)} texts to the encoder, got {len(vectors)} vectors back")
        except Exception as error:
            failure = error if isinstance(error, DanmakuError) else EncoderFailure("the encoder failed")
            if isinstance(failure, EncoderFailure):  # one that is away or has another model is not broken
                self._failures, self._failed_at = self._failures + 1, self._clock()
                log.exception("A model call with %d texts failed.", len(batch))
            self._fail(batch, failure)
        else:
            self._failures = 0
            for waiting, vector in zip(batch, vectors, strict=True):
                del self._waiting[waiting.prepared.key]
                waiting.vector.set_result(vector)
            self._measure(batch, self._clock() - started)
        finally:
            self._metrics.in_flight_texts.dec(len(batch))

    def _fail(self, batch: Sequence[_Waiting[V]], error: DanmakuError) -> None:
        for waiting in batch:
            del self._waiting[waiting.prepared.key]  # the next caller starts a new attempt
            waiting.vector.set_exception(error)
            waiting.vector.exception()  # marks it as retrieved: all callers may have left

    def _is_queued(self, waiting: _Waiting[V]) -> bool:
        return waiting.lane.get(waiting.prepared.num_tokens, {}).get(waiting.prepared.key) is waiting

    def _enqueue(self, waiting: _Waiting[V]) -> None:
        waiting.lane.setdefault(waiting.prepared.num_tokens, {})[waiting.prepared.key] = waiting
        self._count_queued(1)

    def _dequeue(self, waiting: _Waiting[V]) -> None:
        bucket = waiting.lane[waiting.prepared.num_tokens]
        del bucket[waiting.prepared.key]
        if not bucket:
            del waiting.lane[waiting.prepared.num_tokens]
        self._count_queued(-1)

    def _count_queued(self, change: int) -> None:
        self._queued += change
        self._metrics.queue_texts.set(self._queued)

    def _measure(self, batch: Sequence[_Waiting[V]], elapsed_s: float) -> None:
        lengths = [waiting.prepared.num_tokens for waiting in batch]
        self._metrics.encode_seconds.observe(elapsed_s)
        self._metrics.batch_texts.observe(len(batch))
        self._metrics.batch_tokens.inc(sum(lengths))
        self._metrics.padding_tokens.inc(max(lengths) * len(batch) - sum(lengths))
        rate = self._concurrency() * len(batch) / max(elapsed_s, 1e-6)
        self._texts_per_s += 0.1 * (rate - self._texts_per_s) if self._texts_per_s else rate

    def _overloaded(self, new: int) -> Overloaded:
        excess = self._queued + new - self._max_queue_texts
        wait_s = excess / self._texts_per_s if self._texts_per_s else 1.0
        retry_after_s = min(MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s)))
        return Overloaded(
            f"the queue of {self._max_queue_texts} texts has {self._queued} and no room for {new} more; "
            f"retry in {retry_after_s} s",
            retry_after_s,
        )
