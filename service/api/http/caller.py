"""Represents the client that a route works for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from service.api.http.body import receive_hang_up
from service.api.http.headers import find_header
from service.api.http.state import get_state
from service.errors import ClientGone, InvalidRequest, OutOfTime

# Answers from the cache are ready sooner; only longer work has a deadline and is cancelled on a hang-up.
WATCH_AFTER_S = 0.005

T = TypeVar("T")


class Caller:
    """The client that waits for a response, and its deadline.

    The limit is the request's X-Timeout-Ms or the settings' request_timeout_s, whichever is less. It counts from the
    beginning of the request; with `is_stream`, it applies to each `wait` separately.
    """

    def __init__(self, request: Request, *, is_stream: bool = False) -> None:
        """Raises InvalidRequest if X-Timeout-Ms is not a positive whole number."""
        self._receive, self._is_stream = request.receive, is_stream
        self.timeout_s = float(get_state(request).settings.request_timeout_s)
        if (wanted := find_header(request.scope, b"x-timeout-ms")) is not None:
            if not (wanted.isdigit() and len(wanted) <= 10 and 0 < int(wanted) < 2**31):
                value = wanted.decode("latin-1")
                raise InvalidRequest(
                    f"invalid X-Timeout-Ms {value!r}: expected a positive whole number of milliseconds"
                )
            self.timeout_s = min(self.timeout_s, int(wanted) / 1000)
        self._deadline = time.monotonic() + self.timeout_s

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `work`. Cancels it and raises OutOfTime at the deadline, ClientGone on a disconnect.

        Drops the rest of the request's body. A stream's body is still being read, so there the reader must notice a
        hang-up.
        """
        loop = asyncio.get_running_loop()
        watching: asyncio.Task[None] | None = None
        is_over = False
        left_s = self.timeout_s if self._is_stream else self._deadline - time.monotonic()
        deadline = loop.time() + left_s

        def watch() -> None:
            nonlocal watching
            limit.reschedule(deadline)
            if not self._is_stream:
                watching = asyncio.ensure_future(receive_hang_up(self._receive))
                watching.add_done_callback(give_up)

        def give_up(_: object) -> None:
            if not (is_over or limit.expired()):
                limit.reschedule(loop.time())

        timer = loop.call_later(max(0.0, min(WATCH_AFTER_S, left_s)), watch)
        try:
            async with asyncio.timeout(None) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            if watching and watching.done():
                watching.result()
                raise ClientGone("the client disconnected before the response") from None
            message = f"not done within {self.timeout_s * 1000:.0f} ms; finished parts are kept"
            raise OutOfTime(message) from None
        finally:
            is_over = True
            timer.cancel()
            if watching:
                watching.cancel()
                await asyncio.wait((watching,))
