"""What surrounds every request, as plain ASGI: FastAPI's `@app.middleware("http")` would cost more than the rest."""

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

from service.api.reading import header, read_body, too_large
from service.api.responses import error_response
from service.api.stream import is_stream
from service.errors import BodyTimeout, ClientGone, DanmakuError, InternalError, OutOfTime
from service.log import AccessLog, Served, serving
from service.metrics import Metrics, route_of

log = logging.getLogger("danmaku")

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
PROCESS, NUMBERS = secrets.token_hex(4).encode(), itertools.count(1)  # of ids: random bytes for each would cost more
PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds: not worth a line while all is well
MIN_BODY_BYTES_PER_S = 4096


class Observe:
    """Gives a request its id, counts, times and logs it, and answers for what nobody has caught.

    One layer for all of it, since every layer costs. It is the outermost, so that every answer passes here.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: AccessLog | None) -> None:
        self._app, self._metrics, self._access_log = app, metrics, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        request_id = _request_id(scope["headers"])
        served = Served(request_id.decode())
        token = serving.set(served)
        status: int | None = None  # none, if the caller hung up before there was an answer
        failed = False
        bytes_in = bytes_out = 0

        async def listen() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def watch(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id)]}
            else:
                bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, listen, watch)
        except Exception:
            failed = True
            log.exception("%s %r failed.", scope["method"], scope["path"])
            if status is None:  # else the server breaks the answer off, as it must
                error = InternalError("something went wrong on our side; the log has the details")
                await error_response(error)(scope, listen, watch)
        except BaseException:
            failed = True
            raise
        finally:
            seconds = time.perf_counter() - started
            path = scope["path"]
            route = route_of(path, is_stream=is_stream(scope))
            result = "failed" if failed else outcome(status)
            self._metrics.requests[route, result].inc()
            self._metrics.request_seconds[route].observe(seconds)
            if self._access_log and not (result == "ok" and path in PROBES):
                client = scope.get("client")
                self._access_log.write(
                    {
                        "time": datetime.now(UTC),
                        "id": served.id,
                        "method": scope["method"],
                        "path": path,
                        "status": status,
                        "outcome": result,
                        "seconds": round(seconds, 6),
                        "bytes_in": bytes_in,
                        "bytes_out": bytes_out,
                        "texts": served.texts,
                        "client": client[0] if client else None,
                    }
                )
            serving.reset(token)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The caller's own, if it can stand in a log as it is; else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value
    return b"%s-%x" % (PROCESS, next(NUMBERS))


def outcome(status: int | None) -> str:
    """ok; invalid: the caller's doing; refused: too busy, come back; expired: not done in time;
    gone: the caller hung up; failed: ours.
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


class LimitBody:
    """Answers 413 to a body over the limit before it is read into memory, and 408 to one that comes too slowly.

    A stream has no limit here: it limits its lines by itself.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app, self._max_bytes, self._timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if not scope.get("is_whole"):  # see `Connection`; a timer would cost more than the rest
            receive = _in_time(receive, self._timeout_s)
        if is_stream(scope):
            return await self._app(scope, receive, send)
        length = header(scope, b"content-length")
        try:
            if length is None:  # a chunked upload, or no body at all
                receive = _replay(await read_body(receive, self._max_bytes), receive)
            elif int(length) > self._max_bytes:  # the HTTP server holds the client to it
                raise too_large(self._max_bytes)
        except ClientGone:
            return None
        except DanmakuError as error:
            return await error_response(error)(scope, receive, send)
        return await self._app(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay


def _in_time(receive: Receive, timeout_s: float) -> Receive:
    """`receive`, which raises BodyTimeout when the client has kept us waiting for too long.

    Only the time spent waiting counts, and what comes earns more of it: so a long body may take as long as it needs,
    while one that comes byte by byte is at its end soon.
    """
    left_s = timeout_s
    is_whole = False

    async def patient() -> Message:
        nonlocal left_s, is_whole
        if is_whole:  # what is waited for now is the end of the connection
            return await receive()
        started = time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                message = await receive()
        except TimeoutError:
            raise BodyTimeout(f"the body did not come in time: {timeout_s:g} s were spent waiting for it") from None
        earned_s = len(message.get("body", b"")) / MIN_BODY_BYTES_PER_S
        left_s = min(timeout_s, left_s - (time.monotonic() - started) + earned_s)
        is_whole = not message.get("more_body", False)
        return message

    return patient
