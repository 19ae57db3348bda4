"""A connection to Redis that look-ups share: what is asked while answers are awaited is sent together afterwards.

One of redis-py's pool for each look-up costs several times what the look-up itself does. redis-py still makes the
connection (passwords, TLS, sockets) and reads answers, by hiredis. A value does not say whose it is, so after any
trouble the connection is given up: answers are told apart by their order alone.

Waiting is counted in ticks, milliseconds in which this process was free to read an answer and none came: busy itself,
it would else take its own slowness for that of Redis, and have all texts encoded anew just when there are many.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

TICK_S = 0.001


@dataclass(slots=True, eq=False)
class _Asked:
    packed: bytes
    answer: asyncio.Future[Any]
    ticks: int
    ticks_left: int


class Lookups:
    """Connects when something is asked, and again after a failure."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._waiting: list[_Asked] = []  # to be sent
        self._round: list[_Asked] = []  # sent, to be answered in this order
        self._heard = False  # an answer, since the last tick
        self._talking: asyncio.Task[None] | None = None

    @property
    def asked(self) -> int:
        """How much is sent and not all answered, or waits to be."""
        return len(self._round) + len(self._waiting)

    async def ask(self, command: tuple[bytes, ...], *, ticks: int) -> Any:
        """The answer. Raises TimeoutError after so many ticks, and as many more if others were asked before it;
        RedisError or OSError if it fails.

        Whoever asked leaves then. The rest goes on, so that a connection that takes its time to be made is there for
        the next.
        """
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its type knows commands of one word only
        asked = _Asked(packed, asyncio.get_running_loop().create_future(), ticks, ticks)
        self._waiting.append(asked)
        if self._talking is None:
            # It outlives the request that starts it, so its logs are not of that request.
            self._talking = asyncio.create_task(self._talk(), name="look up in Redis", context=Context())
        return await asked.answer

    async def close(self) -> None:
        """Waits for what is on its way, which has its end: redis-py's `socket_timeout`."""
        if self._talking:
            await asyncio.wait([self._talking])
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect()

    async def _talk(self) -> None:
        ticking = asyncio.create_task(self._tick(), name="tick")
        try:
            while self._waiting:
                self._round, self._waiting = [asked for asked in self._waiting if not asked.answer.done()], []
                try:
                    await self._ask_and_listen()
                except Exception as error:  # for those who asked
                    await self._connection.disconnect(nowait=True)
                    for asked in self._round:
                        if not asked.answer.done():
                            asked.answer.set_exception(error)
        finally:
            self._round, self._talking = [], None
            ticking.cancel()

    async def _ask_and_listen(self) -> None:
        if not self._round:
            return
        packed = b"".join([asked.packed for asked in self._round])
        await self._connection.send_packed_command(packed, check_health=False)
        for asked in self._round:
            asked.ticks_left = asked.ticks
        for asked in self._round:
            answer: asyncio.Future[Any] = asked.answer
            try:
                value = await self._connection.read_response(disable_decoding=True)
            except ResponseError as error:  # Redis' own, to this command alone
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(value)
            self._heard = True

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if not self._heard:
                for asked in (*self._round, *self._waiting):
                    asked.ticks_left -= 1
                    if asked.ticks_left <= 0 and not asked.answer.done():
                        asked.answer.set_exception(TimeoutError())
            self._heard = False
