"""The ZMQ server of a worker: requests from PULL to the batcher, vectors through XPUB to the client that sent them.

    PULL ─ read ─┬─ few texts ──▶ prepare ─────────▶ batcher ─▶ encoder ─▶ vectors ─▶ publish
                 ├─ many texts ─▶ slice by slice ──▶    │
                 └─ a command ──▶ answer from status    └ merges all clients, short requests first

No message may crash this process or leak memory: a malformed one is counted and, if its frames name the sender,
answered with an error. The memory of the requests in progress is limited; beyond the limit they wait in order, and
beyond a second limit they are refused. Reading never stops, so status requests are always answered at once.
Unread answers are also limited in bytes, because ZMQ counts only messages.

XPUB shows every subscription before it takes effect, which fixes two faults of the protocol. Topics end with a zero
byte, so no client receives the answers of another (see `wire`). An answer waits for its client's subscription,
which may arrive after the request; the genuine server loses such answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import zmq
import zmq.asyncio

from service import wire
from service.batcher import Batcher
from service.encoders.model import Prepared
from service.encoders.onnx import OnnxEncoder
from service.errors import DanmakuError
from service.metrics import WorkerMetrics
from service.status import Status
from service.tasks import run_in_thread_if
from service.worker_key import require_key

log = logging.getLogger("danmaku")

MAX_HELD_BYTES = 512 * 2**20  # for requests and the vectors of their answers
REQUEST_OVERHEAD_BYTES = 16 * 2**10  # for a request's tasks and futures
MAX_WAITING_BYTES = 64 * 2**20  # of requests that wait for such memory; further ones are refused
MAX_WAITING_REQUESTS = 10_000
MAX_UNREAD_ANSWERS = 2_000  # per connection; ZMQ drops further ones
SMALL_ANSWER_BYTES = 4 * 2**10  # less than this is counted by ZMQ alone
MAX_UNREAD_BYTES_PER_CLIENT = 64 * 2**20  # sent and not yet read; further answers are dropped
MAX_UNREAD_BYTES = 256 * 2**20
STUCK_READER_MS = 60_000  # a connection that reads nothing for this long is closed
LOG_EVERY_S = 60.0
SLICE_TEXTS = 2048  # texts of a long list that are encoded, and sorted by length, together
MAX_SLICES_IN_PROGRESS = 2  # per list: the second is ready when the encoder is done with the first
MAX_LISTS_IN_PROGRESS = 8
SMALL_BODY_BYTES = 8 * 2**10  # larger bodies are parsed and tokenized in a thread, to keep the event loop responsive
SUBSCRIPTION_TIMEOUT_S = 5  # whole seconds; how long an answer waits for its client to subscribe
MAX_UNCLAIMED_ANSWERS = 10_000  # waiting for subscriptions, of all clients; further ones are dropped at once
LINGER_MS = 5000


class Worker:
    """An async context manager that serves while it is entered."""

    def __init__(
        self,
        encoder: OnnxEncoder,
        batcher: Batcher[np.ndarray],
        status: Status,
        metrics: WorkerMetrics,
        *,
        bind: str,
        port: int,
        port_out: int,
        show_tokens: bool = False,
        fixed_embed_length: bool = False,
        allow_terminate: bool = False,
        key_file: Path | None = None,
    ) -> None:
        self._encoder, self._batcher, self._status, self._metrics = encoder, batcher, status, metrics
        self._bind, self._port, self._port_out = bind, port, port_out
        self._show_tokens = show_tokens
        self._fixed_embed_length = fixed_embed_length
        self._allow_terminate = allow_terminate
        self._terminated = asyncio.Event()
        self._options = require_key(key_file) if key_file else {}
        self._context = zmq.asyncio.Context()
        self._loops: list[asyncio.Task[None]] = []
        self._answers: set[asyncio.Task[None]] = set()
        self._lists = asyncio.Semaphore(MAX_LISTS_IN_PROGRESS)
        self.in_progress = 0  # requests for vectors that are not answered yet
        self._held_bytes = 0
        self._waiting: deque[tuple[wire.EncodeRequest, int]] = deque()  # with the memory that each needs
        self._waiting_bytes = 0
        self._unread = UnreadAnswers()
        self._vocab: bytes | None = None  # JSON, which takes longer to make than to send
        self._logged_at = -LOG_EVERY_S
        self._subscriptions: Counter[bytes] = Counter()
        self._subscribed = asyncio.Condition()
        self._unclaimed = 0
        metrics.held_limit_bytes.set(MAX_HELD_BYTES)
        metrics.held_bytes.set_function(lambda: self._held_bytes)
        metrics.requests_in_progress.set_function(lambda: self.in_progress)
        metrics.active_clients.set_function(status.active_clients)

    async def __aenter__(self) -> Worker:
        self._requests = self._context.socket(zmq.PULL)
        self._requests.maxmsgsize = wire.MAX_MESSAGE_BYTES  # ZMQ disconnects the sender of a larger one
        self._publisher = self._context.socket(zmq.XPUB)
        self._publisher.setsockopt(zmq.XPUB_MANUAL, 1)
        self._publisher.sndhwm = MAX_UNREAD_ANSWERS
        self._publisher.maxmsgsize = wire.MAX_MESSAGE_BYTES
        self._publisher.copy_threshold = SMALL_ANSWER_BYTES
        self._publisher.setsockopt(zmq.TCP_MAXRT, STUCK_READER_MS)
        try:
            for option, value in self._options.items():
                self._requests.setsockopt(option, value)
                self._publisher.setsockopt(option, value)
            self._publisher.bind(f"tcp://{self._bind}:{self._port_out}")
            self._requests.bind(f"tcp://{self._bind}:{self._port}")
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._loops = [
            asyncio.create_task(self._read_requests(), name="read requests"),
            asyncio.create_task(self._read_subscriptions(), name="read subscriptions"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops reading, completes the requests in progress and waits for their answers to be sent."""
        reading, subscriptions = self._loops
        reading.cancel()
        await asyncio.wait([reading])
        self._requests.close(linger=0)
        while self._answers:  # a finished request may start a waiting one
            await asyncio.wait(self._answers)
        subscriptions.cancel()
        await asyncio.wait([subscriptions])
        self._publisher.close(linger=LINGER_MS)
        await asyncio.to_thread(self._context.term)

    async def wait_until_ended(self) -> None:
        """Waits for an allowed TERMINATION. Raises the error that ended the worker otherwise."""
        waiting = [asyncio.create_task(self._terminated.wait()), *self._loops]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            waiting[0].cancel()

    def describe_status(self, client: bytes) -> dict[str, Any]:
        return self._status.status(client, in_progress=self.in_progress, obstacle=self._batcher.obstacle)

    async def encode(self, texts: wire.Texts, size: int) -> tuple[np.ndarray, list[list[str]] | None]:
        """Returns vectors [n, dim], or [n, t, dim] without pooling, and the tokens of each text if they are shown.

        `size` is the approximate number of bytes of the texts. Raises DanmakuError.
        """
        if not texts:
            return self._assemble([]), [] if self._show_tokens else None
        if len(texts) <= SLICE_TEXTS:
            rows, tokens = await self._encode_slice(texts, size)
            return self._assemble(rows), tokens
        slices = asyncio.Semaphore(MAX_SLICES_IN_PROGRESS)

        async def encode_from(start: int) -> tuple[list[np.ndarray], list[list[str]] | None]:
            async with slices:
                return await self._encode_slice(texts[start : start + SLICE_TEXTS], size)

        async with self._lists:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(encode_from(start)) for start in range(0, len(texts), SLICE_TEXTS)]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
        done = [task.result() for task in tasks]
        rows = [row for slice_rows, _ in done for row in slice_rows]
        vectors = await asyncio.to_thread(self._assemble, rows)
        return vectors, [t for _, tokens in done for t in tokens or ()] if self._show_tokens else None

    async def _encode_slice(self, texts: wire.Texts, size: int) -> tuple[list[np.ndarray], list[list[str]] | None]:
        prepared = await run_in_thread_if(size > SMALL_BODY_BYTES, lambda: self._prepare(texts))
        rows = await self._batcher.encode(prepared)
        # Without pooling, rows are padded with zeros to the longest text of the batch.
        if self._encoder.options.strategy == "NONE":
            rows = [row[: len(text.ids)] for row, text in zip(rows, prepared, strict=True)]
        return rows, [self._encoder.inputs.tokens(text) for text in prepared] if self._show_tokens else None

    def _prepare(self, texts: wire.Texts) -> list[Prepared]:
        inputs = self._encoder.inputs
        if isinstance(texts[0], list):
            return inputs.prepare_tokens(texts)
        return inputs.prepare_texts(texts)

    def _assemble(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        if self._encoder.options.strategy != "NONE":
            return np.stack(rows) if rows else np.empty((0, self._encoder.model.dim), np.float32)
        padded = self._fixed_embed_length or self._encoder.options.max_seq_len is not None
        length = self._encoder.model.max_seq_len if padded else max(map(len, rows), default=0)
        array = np.zeros((len(rows), length, self._encoder.model.dim), np.float32)
        for index, row in enumerate(rows):
            array[index, : len(row)] = row
        return array

    async def _read_requests(self) -> None:
        while True:
            # Receiving does not suspend while there are messages, so in a flood no subscription would be read.
            await asyncio.sleep(0)
            frames = await self._requests.recv_multipart()
            try:
                request = wire.read_request(frames)
            except wire.WireError as error:
                self._metrics.requests["invalid"].inc()
                self._start(self._refuse(error))
                continue
            if isinstance(request, wire.Command):
                self._start(self._run_command(request))
                continue
            cost = self._cost(request)
            if cost > MAX_HELD_BYTES:
                self._metrics.requests["invalid"].inc()
                message = f"too many texts in one request for this worker's memory: {request.count}; send fewer"
                self._start(self._fail(request.client, request.request_id, message, "too_large"))
                continue
            self._waiting.append((request, cost))
            self._waiting_bytes += len(request.body)
            self._start_waiting()
            if self._waiting_bytes > MAX_WAITING_BYTES or len(self._waiting) > MAX_WAITING_REQUESTS:
                request, _ = self._waiting.pop()
                self._waiting_bytes -= len(request.body)
                self._metrics.requests["failed"].inc()
                message = "too much work is waiting for this worker's memory; retry later"
                self._start(self._fail(request.client, request.request_id, message, "overloaded"))

    def _start_waiting(self) -> None:
        """Starts the requests that wait, in their order, while there is memory for them."""
        while self._waiting and self._held_bytes + self._waiting[0][1] <= MAX_HELD_BYTES:
            request, cost = self._waiting.popleft()
            self._waiting_bytes -= len(request.body)
            self._held_bytes += cost
            self.in_progress += 1
            self._start(self._answer(request, cost))

    def _cost(self, request: wire.EncodeRequest) -> int:
        texts = min(request.count, len(request.body) // 3)  # a text takes at least `"",`, and the count may be wrong
        positions = self._encoder.model.max_seq_len if self._encoder.options.strategy == "NONE" else 1
        return REQUEST_OVERHEAD_BYTES + len(request.body) + texts * positions * self._encoder.model.dim * 4

    def _start(self, answer: Awaitable[None]) -> None:
        task = asyncio.ensure_future(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, request: wire.EncodeRequest, cost: int) -> None:
        started, outcome = time.monotonic(), "failed"
        try:
            size = len(request.body)
            texts = await run_in_thread_if(size > SMALL_BODY_BYTES, request.parse_texts)
            self._status.count_texts(request.client, len(texts))
            self._metrics.texts.inc(len(texts))
            vectors, tokens = await self.encode(texts, size)
            log.debug("%d texts of %r", len(texts), request.client)
            answer = wire.write_vectors(request.client, request.request_id, vectors, tokens)
            outcome = "ok" if await self._publish(answer) else "unclaimed"
        except wire.WireError as error:
            outcome = "invalid"
            await self._refuse(error)
        except DanmakuError as error:
            outcome = "invalid" if error.status < 500 else "failed"
            await self._fail(request.client, request.request_id, str(error), error.error_type)
        except Exception:  # a bug of ours, but the client should not wait for an answer in vain
            log.exception("A request of %d texts failed.", request.count)
            await self._fail(request.client, request.request_id, "the worker failed; see its log", "internal")
        finally:
            self.in_progress -= 1
            self._held_bytes -= cost
            self._metrics.requests[outcome].inc()
            self._metrics.request_seconds.observe(time.monotonic() - started)
            self._start_waiting()

    async def _refuse(self, error: wire.WireError) -> None:
        self._status.refused["answered" if error.request_id else "ignored"] += 1
        log.debug("Malformed request: %s", error)
        # Not kept for a later subscription, or a flood of malformed requests would crowd out the answers of others.
        if error.request_id and self._subscriptions[error.client + wire.END_OF_TOPIC]:
            await self._publish(wire.write_error(error.client, error.request_id, str(error), "malformed"))

    async def _fail(self, client: bytes, request_id: bytes, message: str, error_type: str) -> None:
        self._status.refused[error_type] += 1
        await self._publish(wire.write_error(client, request_id, message, error_type))

    async def _run_command(self, command: wire.Command) -> None:
        self._status.count_command(command.client)
        if command.name == wire.TERMINATION:
            if self._allow_terminate:
                self._terminated.set()
            else:
                self._warn("Ignored a client's TERMINATION; -allow_terminate would permit it.")
            return
        frames = wire.write_json(command.client, command.request_id, {})
        frames[1] = self._describe_vocab() if command.name == wire.SHOW_VOCAB else orjson.dumps(self._describe(command))
        await self._publish(frames)

    def _describe_vocab(self) -> bytes:
        if self._vocab is None:
            # SHOW_CONFIG has the flag -max_seq_len, which may be NONE.
            inputs, max_seq_len = self._encoder.inputs, self._encoder.model.max_seq_len
            content = {"vocab": inputs.vocab, "rules": inputs.rules, "max_seq_len": max_seq_len}
            self._vocab = orjson.dumps(content)
        return self._vocab

    def _describe(self, command: wire.Command) -> dict[str, Any]:
        if command.name == wire.SHOW_CONFIG:
            return self._status.config(command.client)
        return self.describe_status(command.client)

    async def _publish(self, frames: Sequence[bytes | memoryview]) -> bool:
        """Sends an answer once its client has subscribed; drops it and returns False if the client does not."""
        if not await self._has_listener(bytes(frames[0])):
            self._status.refused["unclaimed"] += 1
            return False
        topic, size = bytes(frames[0]), sum(map(_count_bytes, frames))
        if size <= SMALL_ANSWER_BYTES:
            with contextlib.suppress(zmq.Again):  # the client has MAX_UNREAD_ANSWERS waiting
                await self._publisher.send_multipart(frames)
        elif self._unread.has_room(topic):
            with contextlib.suppress(zmq.Again):
                tracker = await self._publisher.send_multipart(frames, copy=False, track=True)
                assert tracker is not None  # with track=True
                self._unread.add(topic, size, tracker)
        else:
            self._status.refused["unread"] += 1
            return False
        return True

    def _warn(self, message: str) -> None:
        if time.monotonic() > self._logged_at + LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.warning(message)

    async def _has_listener(self, topic: bytes) -> bool:
        if self._subscriptions[topic]:
            return True
        if self._unclaimed >= MAX_UNCLAIMED_ANSWERS:
            return False
        self._unclaimed += 1
        try:
            # In steps of a second, because a delayed process cannot read subscriptions either.
            for _ in range(SUBSCRIPTION_TIMEOUT_S):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0), self._subscribed:
                        await self._subscribed.wait_for(lambda: self._subscriptions[topic])
                    return True
            return False
        finally:
            self._unclaimed -= 1

    async def _read_subscriptions(self) -> None:
        # XPUB_MANUAL applies a subscription to the sender of the last message read, unless any client has left since,
        # in which case ZMQ ignores it without an error. So no other use of the socket may come between the two, as it
        # could in the event loop's next turn, in which `await recv()` would continue.
        publisher: zmq.Socket[bytes] = zmq.Socket.shadow(self._publisher)
        is_sender_known = True
        while True:
            try:
                kind, topic = _parse_subscription(publisher.recv(zmq.NOBLOCK))
            except zmq.Again:
                is_sender_known = True
                await self._publisher.poll(zmq.POLLIN)
                continue
            topic += wire.END_OF_TOPIC
            if kind == -1:
                # ZMQ then takes a later message's sender for that of the next subscription, until no message is left.
                # By sending something other than subscriptions, a peer could get the answers of others.
                is_sender_known = False
                self._status.refused["ignored"] += 1
                self._warn("A client sends something other than subscriptions, which keeps others from subscribing.")
            elif kind == 1 and is_sender_known:
                publisher.setsockopt(zmq.SUBSCRIBE, topic)
                self._subscriptions[topic] += 1
                async with self._subscribed:
                    self._subscribed.notify_all()
            elif kind == 0:
                publisher.setsockopt(zmq.UNSUBSCRIBE, topic)
                self._subscriptions[topic] -= 1
                if self._subscriptions[topic] <= 0:
                    del self._subscriptions[topic]
            await asyncio.sleep(0)  # so that other tasks run in a flood of messages


class UnreadAnswers:
    """The large answers that were sent and that ZMQ still holds, because their clients have not read them."""

    def __init__(self) -> None:
        self._by_topic: dict[bytes, deque[tuple[zmq.MessageTracker, int]]] = {}

    def has_room(self, topic: bytes) -> bool:
        """Returns whether another answer may be sent to a client."""
        totals = {each: self._count(each) for each in list(self._by_topic)}
        return totals.get(topic, 0) < MAX_UNREAD_BYTES_PER_CLIENT and sum(totals.values()) < MAX_UNREAD_BYTES

    def add(self, topic: bytes, size: int, tracker: zmq.MessageTracker) -> None:
        self._by_topic.setdefault(topic, deque()).append((tracker, size))

    def _count(self, topic: bytes) -> int:
        """Returns the bytes of a client's unread answers, after forgetting those that have been read."""
        answers = self._by_topic[topic]
        while answers and answers[0][0].done:
            answers.popleft()
        if not answers:
            del self._by_topic[topic]
        return sum(size for _, size in answers)


def _count_bytes(frame: bytes | memoryview) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


def _parse_subscription(message: bytes) -> tuple[int, bytes]:
    """Returns (1, topic) for a subscription, (0, topic) for its end, and (−1, b"") for anything else."""
    if message[:1] in (b"\0", b"\1") and len(message) <= wire.MAX_IDENTITY_BYTES + 1:
        return message[0], message[1:]
    return -1, b""
