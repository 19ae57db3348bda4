"""START HERE. Requests from PULL to the batcher, vectors to whoever asked, over bert-as-service's two sockets.

    PULL ─ read ─┬─ few texts ──▶ prepare ─────────▶ batcher ─▶ encoder ─▶ vectors ─▶ publish
                 ├─ many texts ─▶ slice by slice ──▶    │
                 └─ a command ──▶ answer from status    └ merges all clients, short requests first

Nothing that arrives may end this process or stay in it: what cannot be read is counted and, where its frames say whose
it is, answered with an error. The requests held are bounded by the memory they cost; beyond, nothing more is read, and
ZMQ holds the senders back.

The publisher sees every subscription before it takes effect, which mends two faults of the protocol. A topic is ended
by a zero byte, so nobody receives what is for another (`wire`). And an answer waits for its client's subscription,
which may arrive after the request: the genuine server loses such answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any

import numpy as np
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

log = logging.getLogger("danmaku")

MAX_HELD_BYTES = 512 * 2**20  # of requests and of the vectors they are going to have
REQUEST_OVERHEAD_BYTES = 16 * 2**10  # a request's tasks and futures
MAX_UNREAD_ANSWERS = 10_000  # of one client that does not read; beyond, ZMQ drops
SLICE_TEXTS = 2048  # of a long list, that many are sorted by length together
SLICES_AT_A_TIME = 2  # of one list, so that the encoder need not wait for the next
LISTS_AT_A_TIME = 8
SMALL_BODY_BYTES = 8 * 2**10  # is read and tokenized at once; more goes to a thread, since all others would wait for it
SUBSCRIPTION_TIMEOUT_S = 5.0  # an answer waits so long for its client to listen
MAX_UNCLAIMED_ANSWERS = 10_000  # of all clients that do not; beyond, an answer is dropped at once
LINGER_MS = 5000


class Worker:
    """An async context manager: within it, it serves."""

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
    ) -> None:
        self._encoder, self._batcher, self._status, self._metrics = encoder, batcher, status, metrics
        self._bind, self._port, self._port_out = bind, port, port_out
        self._show_tokens = show_tokens
        self._fixed_embed_length = fixed_embed_length
        self._allow_terminate = allow_terminate
        self._terminated = asyncio.Event()
        self._context = zmq.asyncio.Context()
        self._loops: list[asyncio.Task[None]] = []
        self._answers: set[asyncio.Task[None]] = set()
        self._lists = asyncio.Semaphore(LISTS_AT_A_TIME)
        self.in_progress = 0  # requests for vectors that were read and not yet answered
        self._held_bytes = 0
        self._has_room = asyncio.Condition()
        self._subscriptions: Counter[bytes] = Counter()
        self._subscribed = asyncio.Condition()
        self._unclaimed = 0
        metrics.held_limit_bytes.set(MAX_HELD_BYTES)
        metrics.held_bytes.set_function(lambda: self._held_bytes)
        metrics.requests_in_progress.set_function(lambda: self.in_progress)
        metrics.active_clients.set_function(status.active_clients)

    async def __aenter__(self) -> Worker:
        self._requests = self._context.socket(zmq.PULL)
        self._requests.maxmsgsize = wire.MAX_MESSAGE_BYTES  # ZMQ hangs up on whoever sends a larger one
        self._publisher = self._context.socket(zmq.XPUB)
        self._publisher.setsockopt(zmq.XPUB_MANUAL, 1)
        self._publisher.sndhwm = MAX_UNREAD_ANSWERS
        self._publisher.maxmsgsize = wire.MAX_MESSAGE_BYTES
        try:
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
        """Reads no more, finishes what it holds, and gives the answers time to leave."""
        reading, subscriptions = self._loops
        reading.cancel()
        await asyncio.wait([reading])
        self._requests.close(linger=0)
        if self._answers:
            await asyncio.wait(self._answers)
        subscriptions.cancel()
        await asyncio.wait([subscriptions])
        self._publisher.close(linger=LINGER_MS)
        await asyncio.to_thread(self._context.term)

    async def ended(self) -> None:
        """Waits until a client who may has ended the worker. Raises what ended it otherwise."""
        waiting = [asyncio.create_task(self._terminated.wait()), *self._loops]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            waiting[0].cancel()

    def told_status(self, client: bytes) -> dict[str, Any]:
        return self._status.status(client, in_progress=self.in_progress, obstacle=self._batcher.obstacle)

    async def encode(self, texts: wire.Texts, size: int) -> tuple[np.ndarray, list[list[str]] | None]:
        """[n, dim], or [n, t, dim] without pooling; and the tokens of each text, if the worker shows them.

        `size` is about the number of bytes of the texts. Raises DanmakuError.
        """
        if not texts:
            return self._assemble([]), [] if self._show_tokens else None
        if len(texts) <= SLICE_TEXTS:
            rows, tokens = await self._encode_slice(texts, size)
            return self._assemble(rows), tokens
        slices = asyncio.Semaphore(SLICES_AT_A_TIME)

        async def one(start: int) -> tuple[list[np.ndarray], list[list[str]] | None]:
            async with slices:
                return await self._encode_slice(texts[start : start + SLICE_TEXTS], size)

        async with self._lists:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(start)) for start in range(0, len(texts), SLICE_TEXTS)]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
        done = [task.result() for task in tasks]
        rows = [row for slice_rows, _ in done for row in slice_rows]
        return self._assemble(rows), [t for _, tokens in done for t in tokens or ()] if self._show_tokens else None

    async def _encode_slice(self, texts: wire.Texts, size: int) -> tuple[list[np.ndarray], list[list[str]] | None]:
        prepared = await run_in_thread_if(size > SMALL_BODY_BYTES, lambda: self._prepare(texts))
        rows = await self._batcher.encode(prepared)
        # The batcher gives padding along when there is no pooling: it is zeros, up to a length that is chance.
        if self._encoder.options.strategy == "NONE":
            rows = [row[: len(text.ids)] for row, text in zip(rows, prepared, strict=True)]
        return rows, [self._encoder.inputs.tokens(text) for text in prepared] if self._show_tokens else None

    def _prepare(self, texts: wire.Texts) -> list[Prepared]:
        inputs = self._encoder.inputs
        if isinstance(texts[0], list):
            return inputs.of_tokens(texts)
        return inputs.of_texts(texts)

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
            frames = await self._requests.recv_multipart()
            try:
                request = wire.read_request(frames)
            except wire.WireError as error:
                self._metrics.requests["invalid"].inc()
                self._start(self._refuse(error))
                continue
            if isinstance(request, wire.Command):
                self._start(self._obey(request))
                continue
            cost = self._cost(request)
            if cost > MAX_HELD_BYTES:
                self._metrics.requests["invalid"].inc()
                message = f"{request.count} texts in one request are too many for this worker's memory: send fewer"
                self._start(self._fail(request.client, request.request_id, message, "too_large"))
                continue
            async with self._has_room:
                while self._held_bytes + cost > MAX_HELD_BYTES:
                    await self._has_room.wait()
            self._held_bytes += cost
            self.in_progress += 1
            self._start(self._answer(request, cost))

    def _cost(self, request: wire.Encode) -> int:
        texts = min(request.count, len(request.body) // 3)  # a text takes `"",` at least, whatever the count says
        positions = self._encoder.model.max_seq_len if self._encoder.options.strategy == "NONE" else 1
        return REQUEST_OVERHEAD_BYTES + len(request.body) + texts * positions * self._encoder.model.dim * 4

    def _start(self, answer: Awaitable[None]) -> None:
        task = asyncio.ensure_future(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, request: wire.Encode, cost: int) -> None:
        started, outcome = time.monotonic(), "failed"
        try:
            size = len(request.body)
            texts = await run_in_thread_if(size > SMALL_BODY_BYTES, request.texts)
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
        except Exception:  # ours to mend, but the caller is not to wait for it
            log.exception("A request of %d texts failed.", request.count)
            await self._fail(request.client, request.request_id, "the worker failed; its log says why", "internal")
        finally:
            self.in_progress -= 1
            self._held_bytes -= cost
            self._metrics.requests[outcome].inc()
            self._metrics.request_seconds.observe(time.monotonic() - started)
            async with self._has_room:
                self._has_room.notify()

    async def _refuse(self, error: wire.WireError) -> None:
        self._status.refused["answered" if error.request_id else "ignored"] += 1
        log.debug("Not a request: %s", error)
        # Nobody waits with nonsense, or a flood of it would fill the room in which others wait for their listeners.
        if error.request_id and self._subscriptions[error.client + wire.END_OF_TOPIC]:
            await self._publish(wire.write_error(error.client, error.request_id, str(error), "malformed"))

    async def _fail(self, client: bytes, request_id: bytes, message: str, error_type: str) -> None:
        self._status.refused[error_type] += 1
        await self._publish(wire.write_error(client, request_id, message, error_type))

    async def _obey(self, command: wire.Command) -> None:
        self._status.count_command(command.client)
        if command.name == wire.TERMINATION:
            if self._allow_terminate:
                self._terminated.set()
            else:
                log.warning("A client asked this worker to end; it would with -allow_terminate.")
            return
        await self._publish(wire.write_json(command.client, command.request_id, self._told(command)))

    def _told(self, command: wire.Command) -> dict[str, Any]:
        if command.name == wire.SHOW_CONFIG:
            return self._status.config(command.client)
        if command.name == wire.SHOW_VOCAB:
            # The length of SHOW_CONFIG is the flag's, which may be none.
            return {"vocab": self._encoder.inputs.vocab, "max_seq_len": self._encoder.model.max_seq_len}
        return self.told_status(command.client)

    async def _publish(self, frames: Sequence[bytes | memoryview]) -> bool:
        """Sends an answer to whom its topic names, once they listen; drops it if they do not begin to, False."""
        if not await self._has_listener(bytes(frames[0])):
            self._status.refused["unclaimed"] += 1
            return False
        with contextlib.suppress(zmq.Again):  # they do not read, and have MAX_UNREAD_ANSWERS waiting
            await self._publisher.send_multipart(frames, copy=False)
        return True

    async def _has_listener(self, topic: bytes) -> bool:
        if self._subscriptions[topic]:
            return True
        if self._unclaimed >= MAX_UNCLAIMED_ANSWERS:
            return False
        self._unclaimed += 1
        try:
            async with asyncio.timeout(SUBSCRIPTION_TIMEOUT_S), self._subscribed:
                await self._subscribed.wait_for(lambda: self._subscriptions[topic])
            return True
        except TimeoutError:
            return False
        finally:
            self._unclaimed -= 1

    async def _read_subscriptions(self) -> None:
        while True:
            kind, topic = _subscription(await self._publisher.recv())
            topic += wire.END_OF_TOPIC
            if kind == 1:
                # It applies to whose message was read last, so nothing may be awaited in between.
                self._publisher.setsockopt(zmq.SUBSCRIBE, topic)
                self._subscriptions[topic] += 1
                async with self._subscribed:
                    self._subscribed.notify_all()
            elif kind == 0:
                self._publisher.setsockopt(zmq.UNSUBSCRIBE, topic)
                self._subscriptions[topic] -= 1
                if self._subscriptions[topic] <= 0:
                    del self._subscriptions[topic]


def _subscription(message: bytes) -> tuple[int, bytes]:
    """1 and the topic of a subscription, 0 and that of its end, −1 for whatever else a peer may send here."""
    if message[:1] in (b"\0", b"\1") and len(message) <= wire.MAX_IDENTITY_BYTES + 1:
        return message[0], message[1:]
    return -1, b""
