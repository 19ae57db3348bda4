"""One connection to one worker process, with many requests in flight, each of which is answered or fails.

A connection never reconnects: after a break, another process with another model may be at the address. A new connection
starts by asking for the worker's configuration.

The protocol has no message for the end of a worker. It shows in three ways, the fastest first: a socket is closed, a
message cannot be sent, or a ping is not answered. A worker that shuts down stops reading but completes the requests it
has; the connection then takes no more texts and ends when the last answer has arrived.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import numpy as np
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from service import wire

log = logging.getLogger("danmaku")

OPEN_S = 2.0  # time limit for the answer to the first SHOW_CONFIG
# It is repeated meanwhile: answers of a genuine server are lost until our subscription has reached it.
FIRST_REPEAT_S, MAX_REPEAT_S = 0.01, 0.2
PING_S = 0.5  # from an answer to the next ping
# One missed ping is tolerated: if this process itself was held up, it sees the timeout before the answer.
PING_TIMEOUT_S, MAX_MISSED_PINGS = 0.75, 2
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
CLOSED = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED | REFUSED  # a connection was refused or has ended

Answer = asyncio.Future[wire.VectorsReply | wire.JsonReply]


class WorkerLost(Exception):
    """The worker is gone or does not respond; no answer will come."""


class WorkerFailed(Exception):
    """The worker answered with an error or with something unexpected."""


class WorkerConnection:
    """An async context manager; entering it sets `config`, the answer to SHOW_CONFIG, or raises WorkerLost.

    `host` is an IP address, not a name. `observe` is called with the seconds that each ping took.
    """

    def __init__(
        self, context: zmq.asyncio.Context, host: str, port: int, port_out: int, observe: Callable[[float], None]
    ) -> None:
        self._context, self._observe = context, observe
        self._host, self._port, self._port_out = f"[{host}]" if ":" in host else host, port, port_out
        self._no_answer = f"nothing answers there{wire.advise(host)}"
        self._identity = uuid.uuid4().hex.encode()
        self._ids = count(1)
        self._pending: dict[int, Answer] = {}
        self._sockets: list[zmq.asyncio.Socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._heard_at = 0.0
        self._is_closed = False  # by the worker; answers may remain to be read
        self.config: dict[str, Any] = {}
        self._owed = 0  # requests with texts that are not answered yet
        loop = asyncio.get_running_loop()
        self.leaving: asyncio.Future[str] = loop.create_future()  # the reason why it takes no more texts
        self.ended: asyncio.Future[str] = loop.create_future()  # the reason why no more answers will come

    async def __aenter__(self) -> WorkerConnection:
        try:
            self._connect()
            async with asyncio.timeout(OPEN_S):
                self.config = await self._request_config()
        except BaseException as error:
            await self.__aexit__()
            if isinstance(error, TimeoutError):
                raise WorkerLost(f"no answer within {OPEN_S:g} s{wire.advise(self._host)}") from None
            raise
        self._start(self._ping())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end("the connection was closed")
        for task in self._tasks:
            task.cancel()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:  # even if this is cancelled: the end of the context would wait for an open socket forever
            for socket in self._sockets[:2]:
                socket.disable_monitor()
            for socket in self._sockets:
                socket.close(linger=0)

    async def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the array of the worker's answer, whatever its shape. Raises WorkerLost or WorkerFailed."""
        with self._expect_answer(owed=1) as (request_id, answer):
            frames = wire.write_encode(self._identity, request_id, list(texts))
            if len(frames[1]) > wire.MAX_MESSAGE_BYTES:
                raise WorkerFailed(f"the texts have {len(frames[1])} bytes; expected at most {wire.MAX_MESSAGE_BYTES}")
            await self._send(frames)
            reply = await answer
        if not isinstance(reply, wire.VectorsReply):
            raise WorkerFailed("invalid answer to texts; expected vectors")
        return reply.array

    async def run_command(self, command: bytes) -> dict[str, Any]:
        """Returns the answer to a SHOW_ command. Raises WorkerLost or WorkerFailed."""
        with self._expect_answer() as (request_id, answer):
            await self._send(wire.write_command(self._identity, request_id, command))
            reply = await answer
        if not isinstance(reply, wire.JsonReply):
            raise WorkerFailed(f"invalid answer to {command.decode()}; expected JSON")
        return reply.values

    def retire(self, reason: str) -> None:
        """Takes no more texts and ends when all answers have arrived."""
        if not self.leaving.done():
            self.leaving.set_result(reason)
        if not self._owed:
            self._end(reason)

    def _connect(self) -> None:
        requests, answers = self._context.socket(zmq.PUSH), self._context.socket(zmq.SUB)
        self._requests, self._answers = requests, answers
        self._sockets += [requests, answers]
        for socket in (requests, answers):
            socket.ipv6 = True
            socket.reconnect_ivl = -1
        requests.immediate = True  # queues no messages without a connection
        answers.subscribe(self._identity)
        monitors = [socket.get_monitor_socket(CLOSED) for socket in (requests, answers)]
        self._sockets += monitors
        answers.connect(f"tcp://{self._host}:{self._port_out}")
        requests.connect(f"tcp://{self._host}:{self._port}")
        for work in (self._read(), self._watch_requests(monitors[0]), self._watch_answers(monitors[1])):
            self._start(work)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        def report_failure(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()):
                log.error("The connection to %s:%d failed.", self._host, self._port, exc_info=error)
                self._end("the connection failed; see the log")

        task = asyncio.create_task(work, name="worker connection")
        task.add_done_callback(report_failure)
        self._tasks.append(task)

    async def _request_config(self) -> dict[str, Any]:
        wait_s = FIRST_REPEAT_S
        with self._expect_answer() as (request_id, answer):
            while not answer.done():
                with suppress(zmq.Again):  # not connected yet
                    frames = wire.write_command(self._identity, request_id, wire.SHOW_CONFIG)
                    await self._requests.send_multipart(frames, zmq.NOBLOCK)
                await asyncio.wait([answer], timeout=wait_s)
                wait_s = min(2 * wait_s, MAX_REPEAT_S)
            reply = answer.result()
        if not isinstance(reply, wire.JsonReply):
            raise WorkerLost("invalid answer to SHOW_CONFIG; expected a worker's configuration")
        return reply.values

    @contextmanager
    def _expect_answer(self, *, owed: int = 0) -> Iterator[tuple[int, Answer]]:
        if self.ended.done():
            raise WorkerLost(self.ended.result())
        request_id, answer = next(self._ids), asyncio.get_running_loop().create_future()
        self._pending[request_id] = answer
        self._owed += owed
        try:
            yield request_id, answer
        finally:
            del self._pending[request_id]
            self._owed -= owed
            if self.leaving.done():
                self.retire(self.leaving.result())

    async def _send(self, frames: Sequence[bytes]) -> None:
        try:
            await self._requests.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            raise WorkerLost("it accepts no requests") from None

    async def _read(self) -> None:
        while True:
            self._handle_reply(await self._answers.recv_multipart())
            self._end_if_closed_and_read()

    def _handle_reply(self, frames: Sequence[bytes]) -> None:
        self._heard_at = time.monotonic()
        try:
            reply = wire.read_reply(frames)
        except wire.WireError as error:
            self._fail(self._pending.get(int(error.request_id or 0)), WorkerFailed(str(error)))
            return
        answer = self._pending.get(reply.request_id)  # None if it was cancelled
        if isinstance(reply, wire.ErrorReply):
            self._fail(answer, WorkerFailed(reply.error))
        elif answer and not answer.done():
            answer.set_result(reply)

    async def _watch_requests(self, monitor: zmq.asyncio.Socket) -> None:
        reason = self._explain(await monitor.recv_multipart())
        self.retire("it accepts no more requests" if self.config else reason)

    async def _watch_answers(self, monitor: zmq.asyncio.Socket) -> None:
        self._no_answer = self._explain(await monitor.recv_multipart())
        self._is_closed = True
        self._end_if_closed_and_read()

    def _explain(self, event: list[bytes]) -> str:
        """Returns why a connection that had no answer was closed."""
        if parse_monitor_message(event)["event"] & REFUSED:
            return "it refused the connection; expected worker_key_file to be the public half of its -key_file"
        return self._no_answer

    def _end_if_closed_and_read(self) -> None:
        if self._is_closed and not int(self._answers.get(zmq.EVENTS)) & zmq.POLLIN:
            self._end("it closed the connection" if self.config else self._no_answer)

    async def _ping(self) -> None:
        missed = 0
        while missed < MAX_MISSED_PINGS:
            sent_at = time.monotonic()
            try:
                async with asyncio.timeout(PING_TIMEOUT_S):
                    await self.run_command(wire.SHOW_CONFIG)
                self._observe(time.monotonic() - sent_at)
            except TimeoutError:
                missed = missed + 1 if self._heard_at < sent_at else 0
                continue
            except WorkerLost as error:
                if not self.leaving.done():
                    self._end(str(error))
                return  # a worker that is leaving accepts no pings
            missed = 0
            await asyncio.sleep(PING_S)
        self._end(f"it has been silent for {MAX_MISSED_PINGS * PING_TIMEOUT_S:g} s")

    def _end(self, reason: str) -> None:
        for future in (self.leaving, self.ended):
            if not future.done():
                future.set_result(reason)
        for answer in self._pending.values():
            self._fail(answer, WorkerLost(reason))

    def _fail(self, answer: Answer | None, error: WorkerLost | WorkerFailed) -> None:
        if answer and not answer.done():
            answer.set_exception(error)
            answer.exception()  # marks it as retrieved, since the caller may be gone
