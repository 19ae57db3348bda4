"""Shares a connection to Redis between lookups: lookups that arrive while others are pending are sent together.

Taking a connection from redis-py's pool for each look-up costs several times the look-up itself. redis-py still makes
the connection (passwords, TLS, sockets) and reads answers with hiredis. Answers are matched to commands only by their
order, so the connection is closed after any error.

Waiting is counted in ticks: milliseconds in which this process was free to read an answer and none came. With a clock,
a busy process would mistake its own slowness for that of Redis, and encode all texts again just when there are many.
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
class _Lookup:
    packed: bytes
    answer: asyncio.Future[Any]
    ticks: int
    ticks_left: int


class Lookups:
    """Connects with the first look-up, and again after a failure."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._waiting: list[_Lookup] = []  # to be sent
        self._round: list[_Lookup] = []  # sent, to be answered in this order
        self._heard = False  # whether an answer has arrived since the last tick
        self._talking: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """The number of look-ups that are waiting to be sent or belong to an unfinished round."""
        return len(self._round) + len(self._waiting)

    async def ask(self, command: tuple[bytes, ...], *, ticks: int) -> Any:
        """Returns the answer to a command.

        Raises TimeoutError after `ticks` of waiting, counted again from when the command is sent; RedisError or OSError
        if it fails. A timeout ends only the caller's wait: a connection that is slow to open serves the next look-up.
        """
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its type allows only commands of one word
        lookup = _Lookup(packed, asyncio.get_running_loop().create_future(), ticks, ticks)
        self._waiting.append(lookup)
        if self._talking is None:
            # It outlives the request that starts it, so its logs are not of that request.
            self._talking = asyncio.create_task(self._talk(), name="look up in Redis", context=Context())
        return await lookup.answer

    async def close(self) -> None:
        """Waits for pending answers, at most for redis-py's `socket_timeout`."""
        if self._talking:
            await asyncio.wait([self._talking])
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect()

    async def _talk(self) -> None:
        ticking = asyncio.create_task(self._tick(), name="tick")
        try:
            while self._waiting:
                self._round, self._waiting = [lookup for lookup in self._waiting if not lookup.answer.done()], []
                try:
                    await self._ask_and_listen()
                except Exception as error:  # raised by every `ask` of this round
                    await self._connection.disconnect(nowait=True)
                    for lookup in self._round:
                        if not lookup.answer.done():
                            lookup.answer.set_exception(error)
        finally:
            self._round, self._talking = [], None
            ticking.cancel()

    async def _ask_and_listen(self) -> None:
        if not self._round:
            return
        packed = b"".join([lookup.packed for lookup in self._round])
        await self._connection.send_packed_command(packed, check_health=False)
        for lookup in self._round:
            lookup.ticks_left = lookup.ticks
        for lookup in self._round:
            answer: asyncio.Future[Any] = lookup.answer
            try:
                value = await self._connection.read_response(disable_decoding=True)
            except ResponseError as error:  # from Redis, for this command alone
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
                for lookup in (*self._round, *self._waiting):
                    lookup.ticks_left -= 1
                    if lookup.ticks_left <= 0 and not lookup.answer.done():
                        lookup.answer.set_exception(TimeoutError())
            self._heard = False
