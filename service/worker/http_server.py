"""The HTTP endpoints of bert-serving-server (`-http_port`), and Prometheus metrics on another port (`-metrics_port`).

`wire_http` describes the bodies. Every failure is a 400, except for too many concurrent requests, which is a 503. For
deadlines, keys and refusals use the gateway, `danmaku serve`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service import wire, wire_http
from service.errors import DanmakuError, Overloaded
from service.metrics import WorkerMetrics
from service.wire_http import CLIENT
from service.worker.server import Worker

BODY_TIMEOUT_S = 20.0
MAX_RECEIVED_BYTES = 256 * 2**20  # of all incomplete bodies


def create_http(worker: Worker, *, max_connect: int, cors: str) -> Starlette:
    busy = received_bytes = 0

    async def read_body(request: Request) -> bytes:
        """Reads a body, which takes no other request's place until it is complete. Raises ValueError and Overloaded."""
        nonlocal received_bytes
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for part in request.stream():
                    body += part
                    received_bytes += len(part)
                    if len(body) > wire.MAX_MESSAGE_BYTES:
                        raise ValueError(f"invalid body: larger than {wire.MAX_MESSAGE_BYTES} bytes; send fewer texts")
                    if received_bytes > MAX_RECEIVED_BYTES:
                        raise Overloaded("too many bodies are being received; retry later", 1)
        except TimeoutError:
            raise ValueError(
                f"invalid body: it did not arrive in time; expected it within {BODY_TIMEOUT_S:g} s"
            ) from None
        finally:
            received_bytes -= len(body)
        return bytes(body)

    async def encode(request: Request) -> Response:
        nonlocal busy
        try:
            body = await read_body(request)
        except (ValueError, Overloaded) as error:
            return _failure_response(error, 503 if isinstance(error, Overloaded) else 400)
        if busy >= max_connect:
            return _failure_response(Overloaded(f"{max_connect} requests are in progress; retry later", 1), 503)
        busy += 1
        try:
            request_id, texts = await asyncio.to_thread(wire_http.read_request, body)
            vectors, _ = await worker.encode(texts, len(body))
            return _json_response(await asyncio.to_thread(wire_http.write_vectors, request_id, vectors))
        except (ValueError, RecursionError, DanmakuError) as error:
            return _failure_response(error, 400)
        finally:
            busy -= 1

    async def server_status(request: Request) -> Response:
        return _json_response(wire_http.write_status(worker.describe_status(CLIENT)))

    async def client_status(request: Request) -> Response:
        return _json_response(wire_http.write_status(wire_http.CLIENT_STATUS))

    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("POST", "/encode", encode),
        ("GET", "/status/server", server_status),
        ("GET", "/status/client", client_status),
    ]
    return Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in routes],
        middleware=[Middleware(CORSMiddleware, allow_origins=[cors], allow_methods=["*"], allow_headers=["*"])]
        if cors
        else [],
    )


def create_exporter(metrics: WorkerMetrics) -> Starlette:
    async def text(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", text)])


def _json_response(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _failure_response(error: Exception, status: int) -> Response:

    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(wire_http.write_failure(error, status), status, headers, media_type="application/json")
