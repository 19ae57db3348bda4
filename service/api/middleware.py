"""What surrounds every request, as plain ASGI: FastAPI's `@app.middleware("http")` would cost more than the rest."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.responses import error_response
from service.errors import ClientGone, TooLarge
from service.metrics import ROUTES, Metrics


class CountRequests:
    """Counts and times requests by route and outcome."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        status: int | None = None  # none, if the caller hung up before there was an answer

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except BaseException:
            status = status or 500
            raise
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self._metrics.requests[route, outcome(status)].inc()
            self._metrics.request_seconds[route].observe(time.perf_counter() - started)


def outcome(status: int | None) -> str:
    """ok; invalid: the caller's doing; refused: too busy, come back; gone: the caller hung up; failed: ours."""
    if status is None or status == ClientGone.status:
        return "gone"
    if status < 400:
        return "ok"
    if status in (429, 503):
        return "refused"
    return "invalid" if status < 500 else "failed"


class LimitBody:
    """Answers 413 to a body over the limit before it is read into memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if length is not None:  # the HTTP server holds the client to it
            if int(length) > self._max_bytes:
                return await self._refuse(scope, receive, send)
            return await self._app(scope, receive, send)
        body = bytearray()
        more = True
        while more:  # of unknown length: a chunked upload, or no body at all
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                return await self._refuse(scope, receive, send)

        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        return await self._app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLarge(f"the body is over {self._max_bytes} bytes; send the texts in several requests")
        await error_response(error)(scope, receive, send)
