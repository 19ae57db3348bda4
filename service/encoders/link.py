"""One connection to one worker process: many requests under way at a time, each of them answered or failed.

A link never reconnects. What listens at an address after a break may be another process with another model, so a link
ends with its connection, and whoever wants to go on opens a new one, which begins with the question who is there.

The protocol has no word for the end of a worker. A link finds out in three ways, the quickest first: a connection
closes; a send finds nobody; nothing is heard although a question is open. A worker that ends in order reads no more but
answers what it has: then the link takes no more texts and ends when it is owed nothing.
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

from service import wire

log = logging.getLogger("danmaku")

OPEN_S = 2.0  # for a worker to say who it is
# It is asked again and again meanwhile: what a genuine server answers is lost until the subscription has reached it.
FIRST_ASKED_AGAIN_S, ASKED_AGAIN_S = 0.01, 0.2
PING_S = 0.5  # from an answer to the next question
# The second question in a row without a sign of life is the end. The first is not: if this process was held up itself,
# it sees that time is over before it sees what has come in.
PING_TIMEOUT_S, MAX_MISSED_PINGS = 0.75, 2
CLOSED = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED  # a connection was refused, or is over

Answer = asyncio.Future[wire.Vectors | wire.Content]


class WorkerLost(Exception):
    """It is gone or does not hear: what it was asked for will not come."""


class WorkerFailed(Exception):
    """It answered, but not with what it was asked for."""


class Link:
    """An async context manager; within it, `config` is what the worker says of itself. To enter may raise WorkerLost.

    `host` is an address and not a name; `observe` is told, now and then, how many seconds an answer took.
    """

    def __init__(
        self, context: zmq.asyncio.Context, host: str, port: int, port_out: int, observe: Callable[[float], None]
    ) -> None:
        self._context, self._observe = context, observe
        self._host, self._port, self._port_out = f"[{host}]" if ":" in host else host, port, port_out
        self._identity = uuid.uuid4().hex.encode()
        self._ids = count(1)
        self._asked: dict[int, Answer] = {}
        self._sockets: list[zmq.asyncio.Socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._heard_at = 0.0
        self._is_closed = False  # by the worker; answers that came before may still have to be read
        self.config: dict[str, Any] = {}
        self._owed = 0  # requests with texts that are not answered yet
        loop = asyncio.get_running_loop()
        self.leaving: asyncio.Future[str] = loop.create_future()  # why it takes no more texts
        self.ended: asyncio.Future[str] = loop.create_future()  # why nothing more will come

    async def __aenter__(self) -> Link:
        try:
            self._connect()
            async with asyncio.timeout(OPEN_S):
                self.config = await self._introduction()
        except BaseException as error:
            await self.__aexit__()
            if isinstance(error, TimeoutError):
                raise WorkerLost(f"no answer within {OPEN_S:g} s") from None
            raise
        self._start(self._ping())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end("the link was closed")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for socket in self._sockets[:2]:
            socket.disable_monitor()
        for socket in self._sockets:
            socket.close(linger=0)

    async def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The array that the worker answers with, whatever its shape. Raises WorkerLost or WorkerFailed."""
        with self._expected(owed=1) as (request_id, answer):
            frames = wire.write_encode(self._identity, request_id, list(texts))
            if len(frames[1]) > wire.MAX_MESSAGE_BYTES:
                raise WorkerFailed(f"{len(frames[1])} bytes of text are too many for one message")
            await self._send(frames)
            reply = await answer
        if not isinstance(reply, wire.Vectors):
            raise WorkerFailed("it answered texts with something else than vectors")
        return reply.array

    async def ask(self, command: bytes) -> dict[str, Any]:
        """What the worker answers to one of its SHOW_ commands. Raises WorkerLost or WorkerFailed."""
        with self._expected() as (request_id, answer):
            await self._send(wire.write_command(self._identity, request_id, command))
            reply = await answer
        if not isinstance(reply, wire.Content):
            raise WorkerFailed(f"it answered {command.decode()} with something else than what it shows")
        return reply.values

    def retire(self, reason: str) -> None:
        """Lets the link end as soon as it is owed nothing."""
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
        requests.immediate = True  # nothing is sent into the blue
        answers.subscribe(self._identity)
        watched = [socket.get_monitor_socket(CLOSED) for socket in (requests, answers)]
        self._sockets += watched
        answers.connect(f"tcp://{self._host}:{self._port_out}")
        requests.connect(f"tcp://{self._host}:{self._port}")
        for work in (self._read(), self._watch_requests(watched[0]), self._watch_answers(watched[1])):
            self._start(work)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()):
                log.error("The link to %s:%d failed.", self._host, self._port, exc_info=error)
                self._end("the link to it failed; the log says why")

        task = asyncio.create_task(work, name="link")
        task.add_done_callback(done)
        self._tasks.append(task)

    async def _introduction(self) -> dict[str, Any]:
        wait_s = FIRST_ASKED_AGAIN_S
        with self._expected() as (request_id, answer):
            while not answer.done():
                with suppress(zmq.Again):  # not connected yet
                    frames = wire.write_command(self._identity, request_id, wire.SHOW_CONFIG)
                    await self._requests.send_multipart(frames, zmq.NOBLOCK)
                await asyncio.wait([answer], timeout=wait_s)
                wait_s = min(2 * wait_s, ASKED_AGAIN_S)
            reply = answer.result()
        if not isinstance(reply, wire.Content):
            raise WorkerLost("it answers, but not as a worker does")
        return reply.values

    @contextmanager
    def _expected(self, *, owed: int = 0) -> Iterator[tuple[int, Answer]]:
        if self.ended.done():
            raise WorkerLost(self.ended.result())
        request_id, answer = next(self._ids), asyncio.get_running_loop().create_future()
        self._asked[request_id] = answer
        self._owed += owed
        try:
            yield request_id, answer
        finally:
            del self._asked[request_id]
            self._owed -= owed
            if self.leaving.done():
                self.retire(self.leaving.result())

    async def _send(self, frames: Sequence[bytes]) -> None:
        try:
            await self._requests.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            raise WorkerLost("it takes no requests") from None

    async def _read(self) -> None:
        while True:
            self._take(await self._answers.recv_multipart())
            self._end_if_all_is_read()

    def _take(self, frames: Sequence[bytes]) -> None:
        self._heard_at = time.monotonic()
        try:
            reply = wire.read_reply(frames)
        except wire.WireError as error:
            self._fail(self._asked.get(int(error.request_id or 0)), WorkerFailed(str(error)))
            return
        answer = self._asked.get(reply.request_id)  # None if nobody waits for it any more
        if isinstance(reply, wire.Failure):
            self._fail(answer, WorkerFailed(reply.error))
        elif answer and not answer.done():
            answer.set_result(reply)

    async def _watch_requests(self, monitor: zmq.asyncio.Socket) -> None:
        await monitor.recv_multipart()
        self.retire("it takes no more requests" if self.config else "nothing answers there")

    async def _watch_answers(self, monitor: zmq.asyncio.Socket) -> None:
        await monitor.recv_multipart()
        self._is_closed = True
        self._end_if_all_is_read()

    def _end_if_all_is_read(self) -> None:
        if self._is_closed and not int(self._answers.get(zmq.EVENTS)) & zmq.POLLIN:
            self._end("it closed the connection" if self.config else "nothing answers there")

    async def _ping(self) -> None:
        missed = 0
        while missed < MAX_MISSED_PINGS:
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(PING_TIMEOUT_S):
                    await self.ask(wire.SHOW_CONFIG)
                self._observe(time.monotonic() - asked_at)
            except TimeoutError:
                missed = missed + 1 if self._heard_at < asked_at else 0
                continue
            except WorkerLost as error:
                if not self.leaving.done():
                    self._end(str(error))
                return  # while it leaves, it cannot be asked
            missed = 0
            await asyncio.sleep(PING_S)
        self._end(f"it has been silent for {MAX_MISSED_PINGS * PING_TIMEOUT_S:g} s")

    def _end(self, reason: str) -> None:
        for future in (self.leaving, self.ended):
            if not future.done():
                future.set_result(reason)
        for answer in self._asked.values():
            self._fail(answer, WorkerLost(reason))

    def _fail(self, answer: Answer | None, error: WorkerLost | WorkerFailed) -> None:
        if answer and not answer.done():
            answer.set_exception(error)
            answer.exception()  # seen: who asked may be gone
