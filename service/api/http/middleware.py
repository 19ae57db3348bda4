"""Wraps every request in plain ASGI middleware: FastAPI's `@app.middleware("http")` would cost more than the rest."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.accounts import current_account
from service.api.http.responses import error_response
from service.errors import ClientGone, DanmakuError, EncoderUnavailable, InternalError, OutOfTime
from service.log import AccessLog, RequestRecord, current_request
from service.memory import Hold, Memory, current_hold
from service.metrics import Metrics, name_route

log = logging.getLogger("danmaku")

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
PROCESS, NUMBERS = secrets.token_hex(4).encode(), itertools.count(1)  # parts of an id: cheaper than random bytes
NOSNIFF = (b"x-content-type-options", b"nosniff")  # so that no browser takes JSON for a page
PROBES = (
    "/healthz",
    "/readyz",
    "/health",
    "/metrics",
)  # requested every few seconds: logged only when something is wrong


class Observe:
    """Gives a request its id, counts, times and logs it.

    One layer does all of this, because every layer costs time. It is the outermost, so it sees every answer.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, memory: Memory, access_log: AccessLog | None) -> None:
        self._app, self._metrics, self._memory, self._access_log = app, metrics, memory, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        request_id = _choose_id(scope["headers"])
        record, hold = RequestRecord(request_id.decode()), Hold(self._memory)
        tokens = current_request.set(record), current_hold.set(hold), current_account.set(None)
        status: int | None = None  # stays None if the caller hung up before there was an answer
        has_failed = False
        bytes_in = bytes_out = 0

        async def count_received() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def count_sent(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id), NOSNIFF]}
            else:
                bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, count_received, count_sent)
        except BaseException:
            has_failed = True
            raise
        finally:
            seconds = time.perf_counter() - started
            path = scope["path"]
            route = name_route(path, is_stream=record.is_stream)
            outcome = "failed" if has_failed else name_outcome(status)
            self._metrics.requests[route, outcome].inc()
            self._metrics.request_seconds[route].observe(seconds)
            if account := current_account.get():
                account.requests[outcome].inc()
            if self._access_log and not (outcome == "ok" and path in PROBES):
                client = scope.get("client")
                self._access_log.write(
                    {
                        "time": datetime.now(UTC),
                        "id": record.id,
                        "method": scope["method"],
                        "path": path,
                        "status": status,
                        "outcome": outcome,
                        "seconds": round(seconds, 6),
                        "bytes_in": bytes_in,
                        "bytes_out": bytes_out,
                        "texts": record.texts,
                        "client": client[0] if client else None,
                        "key": account.name if account else None,
                    }
                )
            if hold.held_bytes:
                self._memory.release(hold.held_bytes)
            for variable, token in zip((current_request, current_hold, current_account), tokens, strict=True):
                variable.reset(token)  # type: ignore[attr-defined]


class AnswerErrors:
    """Turns errors into responses; all other code only raises them.

    It is inside the CORS middleware, so pages can read errors, and inside the spans of tracing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        has_started = False

        async def watch(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            return await self._app(scope, receive, watch)
        except DanmakuError as raised:
            if has_started:
                raise
            # Its traceback refers to this frame, and this frame to it: the request's memory would stay until a full
            # collection.
            error = raised.with_traceback(None)
        except asyncio.CancelledError:  # by the server, which waits only so long for requests when it stops
            if has_started:
                raise
            error = EncoderUnavailable("the service is stopping, and this request was not done in time")
        except Exception:
            log.exception("%s %r failed.", scope["method"], scope["path"])
            if has_started:  # the server can only break the connection off
                raise
            error = InternalError("internal error; the gateway's log has the details")
        await error_response(error)(scope, receive, send)


def _choose_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns the caller's X-Request-ID if it is safe to log unchanged, otherwise a new id."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value
    return b"%s-%x" % (PROCESS, next(NUMBERS))


def name_outcome(status: int | None) -> str:
    """Returns the outcome for metrics and the access log.

    ok; invalid: the caller's fault; refused: too busy, retry later; expired: out of time; gone: the caller hung up;
    failed: our fault.
    """
    if status is None or status == ClientGone.status:
        return "gone"
    if status < 400:
        return "ok"
    if status in (429, 503):
        return "refused"
    if status == OutOfTime.status:
        return "expired"
    return "invalid" if status < 500 else "failed"
