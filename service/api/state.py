"""What a route may use: assembled in `app.py`, found through the request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from fastapi import Request

from service.api.reading import header
from service.batcher import Batcher
from service.collections.collections import Collections
from service.collections.map_cache import Maps
from service.embedder import Embedder
from service.errors import ClientGone, DanmakuError, InvalidRequest, OutOfTime, TooLarge
from service.log import serving
from service.settings import Settings
from service.status import Status

T = TypeVar("T")


@dataclass(frozen=True)
class State:
    settings: Settings
    embedder: Embedder
    batcher: Batcher
    status: Status
    store: Collections | DanmakuError  # or what to answer in their place
    maps: Maps = field(default_factory=Maps)

    @property
    def collections(self) -> Collections:
        """Raises NotFound if there are none here."""
        if isinstance(self.store, DanmakuError):
            raise type(self.store)(str(self.store))  # anew, since it takes its traceback along
        return self.store

    def accept_texts(self, count: int) -> None:
        """Raises TooLarge if that many texts are more than one request may bring."""
        if served := serving.get():
            served.texts = count
        limit = self.settings.max_request_texts
        if count > limit:
            raise TooLarge(f"{count} texts in one request; at most {limit} are taken, so send them in several")


def state_of(request: Request) -> State:
    return cast(State, request.app.state.danmaku)


class Caller:
    """Who waits for an answer: until they hang up, and no longer than they said or the settings allow."""

    def __init__(self, request: Request) -> None:
        """Raises InvalidRequest if the request's X-Timeout-Ms is no time."""
        self._request = request
        self.timeout_s = float(state_of(request).settings.request_timeout_s)
        if (wanted := header(request.scope, b"x-timeout-ms")) is not None:
            if not (wanted.isdigit() and len(wanted) <= 10 and 0 < int(wanted) < 2**31):
                shown = wanted.decode("latin-1")
                raise InvalidRequest(f"X-Timeout-Ms is {shown!r}; expected milliseconds, a whole number from 1")
            self.timeout_s = min(self.timeout_s, int(wanted) / 1000)
        self._deadline = time.monotonic() + self.timeout_s

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work, which is cancelled if the caller hangs up, ClientGone, or at the deadline, OutOfTime.

        To be called when the body has been read: what comes next from the caller can only be the end of the connection.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._request.receive())
        try:
            left_s = max(0.0, self._deadline - time.monotonic())
            await asyncio.wait((task, gone), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientGone("the caller hung up before the answer")
            raise self.out_of_time()
        finally:
            for unfinished in (task, gone):
                unfinished.cancel()
            await asyncio.wait((task, gone))

    def out_of_time(self) -> OutOfTime:
        return OutOfTime(f"not done within {self.timeout_s * 1000:.0f} ms; what was done by then is kept")
