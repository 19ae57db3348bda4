"""Turns many small concurrent requests into few model calls on texts of similar length.

Seven ideas to know before changing anything here:

1. Callers share texts in flight. A text on its way to the encoder is never sent twice; the next caller
   that needs it waits for the same call. In a live chat the texts in flight are the same few words.
2. There is no timer. While the encoder is busy, texts accumulate; when it is idle, waiting gains nothing.
3. Texts wait in one bucket per length. A call starts at the bucket whose head has waited longest, so nothing starves,
   and adds shorter texts while its token budget lasts. Much shorter ones wait for another call: encoders pad at least
   attention to the longest text of a call.
4. There are two lanes. A bot's single text does not wait behind a list of 10,000: requests of few texts go first, in
   separate short calls. Every fourth call serves the long lists, so they make progress, too.
5. API keys take turns, by tokens: the key that had least so far is next (start-time fair queueing). While several are
   active, none can occupy all calls, and calls are shorter. So a key with few texts waits for a short call, not for
   everything that another key has queued. Texts of other keys join a call only if their turn is also near.
6. A call belongs to one model. While another takes over, texts prepared for either may be waiting.
7. A caller can leave at any moment. Each waits for its own future, which the last of its texts completes, so its
   cancellation affects no other caller; a text that no caller waits for any more leaves the queue at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Generic, TypeVar, cast

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
# # may be tried again; otherwise a gateway that gets no requests because it is not ready would never recover.
BROKEN_AFTER_FAILURES = 3
TRY_AGAIN_AFTER_S = 10.0
SHARING_S = 1.0  # a key that sent texts this recently shares the encoder
SHARED_CALL_SHARE = 0.25  # of a call's tokens that one key may have while it shares
NEAR_TURN_SHARE = 1 / 16  # of a call's tokens: payers within this distance of the next one join its call


@dataclass(slots=True, eq=False)
class _Caller:
    """A caller of `encode`; a future for each text would take longer than all else that is done for it."""

    done: asyncio.Future[None]
    missing: int  # texts

    def take(self) -> None:
        self.missing -= 1
        if not self.missing and not self.done.done():  # it may have left, or failed with another text
            self.done.set_result(None)

    def fail(self, error: DanmakuError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # marks it as retrieved: the caller may be leaving


@dataclass(slots=True, eq=False)
class _Waiting(Generic[V]):
    prepared: Prepared
    since: float
    payer: _Payer[V]
    lane: Lane[V]
    callers: list[_Caller] = field(default_factory=list)  # a caller is here once for each time it sent the text
    vector: V | None = None

    @property
    def turn(self) -> tuple[float, bool]:
        """The order of payers: the lowest is next."""
        return self.payer.turn, self.lane is self.payer.bulk


Key = tuple[str, str]  # `Prepared.key`
Lane = dict[int, dict[Key, _Waiting[V]]]  # queued texts: number of tokens → by key, in order of arrival


@dataclass(slots=True, eq=False)
class _Payer(Generic[V]):
    """An API key and its queued texts; without keys there is one for all."""

    turn: float  # its tokens when it was last served, or the others' tokens when it joined
    asked_at: float
    quick: Lane[V] = field(default_factory=dict)
    bulk: Lane[V] = field(default_factory=dict)
    queued: int = 0
    calls: int = 0
    overtaking_calls: int = 0


class Batcher(Generic[V]):
    """An async context manager; within it any number of tasks may call `encode`.

    The given function runs up to `concurrency()` times at once (at least once), each time with at most `max_batch_size`
    texts and `max_batch_tokens` tokens without padding, or with one text. It returns one result per text. Requests of
    up to `priority_batch_size` texts overtake longer ones; those are refused while what is queued takes longer than
    `max_wait_s`. `clock` returns seconds.
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
        max_wait_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encode = encode
        self._concurrency = concurrency
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_size = max_batch_size
        self._max_queue_texts = max_queue_texts
        self._priority_batch_size = priority_batch_size
        self._max_wait_s = max_wait_s
        self._metrics = metrics
        metrics.queue_texts.set_function(lambda: self._queued)
        metrics.in_flight_texts.set_function(lambda: self._in_flight)
        self._clock = clock
        self._waiting: dict[Key, _Waiting[V]] = {}  # queued or being encoded
        self._payers: dict[str, _Payer[V]] = {}  # that are active, or were less than SHARING_S ago
        self._turn = 0.0  # of the payer that was served last
        self._queued = self._in_flight = 0  # texts
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
        queued = [waiting for waiting in self._waiting.values() if self._is_queued(waiting)]
        for waiting in queued:
            self._dequeue(waiting)
        self._fail(queued, EncoderUnavailable("the service is stopping"))
        if self._calls:
            await asyncio.wait(self._calls)

    @property
    def obstacle(self) -> str | None:
        """The reason why texts sent now would not be embedded, or None."""
        if not self._is_open:
            return "the service is stopping"
        if self.is_nearly_full:
            return f"{self._queued} texts are waiting in a queue of {self._max_queue_texts}"
        if self._failures >= BROKEN_AFTER_FAILURES and self._clock() - self._failed_at < TRY_AGAIN_AFTER_S:
            return f"the encoder failed its last {self._failures} calls"
        return None

    @property
    def is_nearly_full(self) -> bool:
        return self._queued >= HIGH_WATER * self._max_queue_texts

    def check_room(self, keys: Iterable[Key], *, payer: str = "", times: float = 1.0) -> None:
        """Raises Overloaded if texts with these distinct keys, each for `times` texts, do not fit in the queue now.

        A full queue still takes the share of a payer that has less.
        """
        new = round(times * sum(key not in self._waiting for key in keys))
        if refusal := self._find_refusal(new, payer):
            self._metrics.refused_texts.inc(new)
            raise refusal

    def has_room(self, new: int, *, payer: str = "") -> bool:
        """Returns whether this many texts that are not in flight would be accepted now."""
        return self._find_refusal(new, payer) is None

    def _find_refusal(self, new: int, payer: str) -> Overloaded | None:
        limit, excess = self._max_queue_texts, self._queued + new - self._max_queue_texts
        if new > self._priority_batch_size and self._texts_per_s and excess <= 0:
            # Work whose caller has given up would keep the encoder from all other work.
            limit = int(min(limit, self._max_wait_s * self._texts_per_s))
            excess = self._queued - limit
        if excess > 0:
            has, others = self._payers.get(payer), self._payers.keys() - {payer}
            if not others or (has.queued if has else 0) + new > limit / (len(others) + 1):
                return self._overloaded(new, limit, excess)
        return None

    async def encode(self, texts: Sequence[Prepared], *, payer: str = "") -> list[V]:
        """Returns one result per text, in order. `payer` is the API key that sends them.

        Accepts all of the texts or none: raises Overloaded if they do not fit in the queue now, EncoderUnavailable when
        the service is stopping, EncoderFailure if a model call failed.
        """
        if not self._is_open:
            raise EncoderUnavailable("the service is stopping")
        self.check_room((prepared.key for prepared in texts), payer=payer)
        if not texts:
            return []
        account = self._find_payer(payer)
        lane = account.quick if len(texts) <= self._priority_batch_size else account.bulk
        caller = _Caller(asyncio.get_running_loop().create_future(), len(texts))
        waiting = [self._join(prepared, caller, account, lane) for prepared in texts]
        try:
            await caller.done
        except BaseException:
            for w in waiting:
                self._leave(w, caller)
            raise
        return [cast(V, w.vector) for w in waiting]

    def _find_payer(self, name: str) -> _Payer[V]:
        now = self._clock()
        for other, payer in list(self._payers.items()):
            if not (payer.queued or payer.calls) and now - payer.asked_at > SHARING_S:
                del self._payers[other]
        payer = self._payers.setdefault(name, _Payer(self._turn, now))
        payer.asked_at = now
        if not payer.queued:  # idle keys save nothing up
            payer.turn = max(payer.turn, self._turn)
        return payer

    def _join(self, prepared: Prepared, caller: _Caller, payer: _Payer[V], lane: Lane[V]) -> _Waiting[V]:
        waiting = self._waiting.get(prepared.key)
        if waiting is None:
            waiting = self._waiting[prepared.key] = _Waiting(prepared, self._clock(), payer, lane)
            self._enqueue(waiting)
            self._dispatch_soon()
        elif (payer.turn, lane is payer.bulk) < waiting.turn and self._is_queued(waiting):
            self._dequeue(waiting)
            waiting.payer, waiting.lane = payer, lane
            self._enqueue(waiting)
        waiting.callers.append(caller)
        return waiting

    def _leave(self, waiting: _Waiting[V], caller: _Caller) -> None:
        waiting.callers.remove(caller)
        if not waiting.callers and self._is_queued(waiting):
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
        while len(self._calls) < max(1, self._concurrency()) and (payer := self._next_payer()):
            # In an empty context: a batch serves several requests, so its logs must not carry the id of one of them.
            batch = self._next_batch(payer)
            payer.calls += 1
            call = asyncio.create_task(self._call(batch, payer), name="encode", context=Context())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            call.add_done_callback(lambda _: self._dispatch_soon())

    def _next_payer(self) -> _Payer[V] | None:
        """Returns the payer whose turn it is, or None if it is nobody's turn."""
        most_calls = max(1, self._concurrency() - 1) if len(self._payers) > 1 else math.inf
        waiting = (payer for payer in self._payers.values() if payer.queued and payer.calls < most_calls)
        return min(waiting, key=attrgetter("turn"), default=None)

    def _next_batch(self, payer: _Payer[V]) -> list[_Waiting[V]]:
        self._turn = max(self._turn, payer.turn)
        is_quick = bool(payer.quick) and (not payer.bulk or payer.overtaking_calls < MAX_OVERTAKING_CALLS)
        payer.overtaking_calls = payer.overtaking_calls + 1 if is_quick and payer.bulk else 0
        # A quick call has no bulk texts, which would slow it down; a bulk call has room for quick ones at its end.
        lanes = [payer.quick] if is_quick else [payer.bulk, payer.quick]
        heads = (next(iter(bucket.values())) for bucket in lanes[0].values())
        head = min(heads, key=lambda waiting: waiting.since)
        soon = self._turn + NEAR_TURN_SHARE * self._max_batch_tokens
        others = [other for other in self._payers.values() if other is not payer and other.turn <= soon]
        share = SHARED_CALL_SHARE if len(self._payers) > 1 else 1
        batch: list[_Waiting[V]] = []
        tokens = self._max_batch_tokens
        for each, part in [(payer, lanes), *((other, [other.quick]) for other in others)]:
            used = self._take(batch, part, head.prepared, min(tokens, int(share * self._max_batch_tokens)))
            tokens -= used
            each.turn += used
        return batch

    def _take(self, batch: list[_Waiting[V]], lanes: list[Lane[V]], head: Prepared, tokens: int) -> int:
        """Moves texts that fit with `head` from the lanes to the batch; returns their number of tokens."""
        longest, left = head.num_tokens, tokens
        for lane in lanes:
            for length in range(longest, math.ceil(longest * SHORTEST_SHARE) - 1, -1):
                room = min(self._max_batch_size - len(batch), left // length)
                alike = (w for w in lane.get(length, {}).values() if w.prepared.fingerprint == head.fingerprint)
                chosen = list(islice(alike, max(room, 0 if batch else 1)))
                batch += chosen
                left -= length * len(chosen)
                for waiting in chosen:
                    self._dequeue(waiting)
        return tokens - left

    async def _call(self, batch: list[_Waiting[V]], payer: _Payer[V]) -> None:
        started = self._clock()
        for waiting in batch:
            self._metrics.queue_seconds.observe(started - waiting.since)
        self._in_flight += len(batch)
        try:
            vectors = await self._encode([waiting.prepared for waiting in batch])
            if len(vectors) != len(batch):
                raise EncoderFailure(f"sent {len(batch)} texts to the encoder, got {len(vectors)} vectors back")
        except Exception as error:
            failure = error if isinstance(error, DanmakuError) else EncoderFailure("the encoder failed")
            if isinstance(failure, EncoderFailure):  # an encoder that is unreachable or has another model is not broken
                self._failures, self._failed_at = self._failures + 1, self._clock()
                log.exception("A model call with %d texts failed.", len(batch))
            self._fail(batch, failure)
        else:
            self._failures = 0
            for waiting, vector in zip(batch, vectors, strict=True):
                del self._waiting[waiting.prepared.key]
                waiting.vector = vector
                for caller in waiting.callers:
                    caller.take()
            self._measure(batch, self._clock() - started)
        finally:
            self._in_flight -= len(batch)
            payer.calls -= 1

    def _fail(self, batch: Sequence[_Waiting[V]], error: DanmakuError) -> None:
        for waiting in batch:
            del self._waiting[waiting.prepared.key]  # the next caller starts a new attempt
            for caller in waiting.callers:
                caller.fail(error)

    def _is_queued(self, waiting: _Waiting[V]) -> bool:
        return waiting.lane.get(waiting.prepared.num_tokens, {}).get(waiting.prepared.key) is waiting

    def _enqueue(self, waiting: _Waiting[V]) -> None:
        waiting.lane.setdefault(waiting.prepared.num_tokens, {})[waiting.prepared.key] = waiting
        waiting.payer.queued += 1
        self._queued += 1

    def _dequeue(self, waiting: _Waiting[V]) -> None:
        bucket = waiting.lane[waiting.prepared.num_tokens]
        del bucket[waiting.prepared.key]
        if not bucket:
            del waiting.lane[waiting.prepared.num_tokens]
        waiting.payer.queued -= 1
        self._queued -= 1

    def _measure(self, batch: Sequence[_Waiting[V]], elapsed_s: float) -> None:
        lengths = [waiting.prepared.num_tokens for waiting in batch]
        self._metrics.encode_seconds.observe(elapsed_s)
        self._metrics.batch_texts.observe(len(batch))
        self._metrics.batch_tokens.inc(sum(lengths))
        self._metrics.padding_tokens.inc(max(lengths) * len(batch) - sum(lengths))
        rate = self._concurrency() * len(batch) / max(elapsed_s, 1e-6)
        self._texts_per_s += 0.1 * (rate - self._texts_per_s) if self._texts_per_s else rate

    def _overloaded(self, new: int, limit: int, excess: int) -> Overloaded:
        wait_s = excess / self._texts_per_s if self._texts_per_s else 1.0
        retry_after_s = min(MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s)))
        return Overloaded(
            f"the queue holds {self._queued} of at most {limit} texts and has no room for {new} more; "
            f"retry in {retry_after_s} s",
            retry_after_s,
        )
