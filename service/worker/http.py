"""The HTTP endpoints of bert-serving-server, which `-http_port` asks for.

    POST /encode          {"id": 123, "texts": ["草", "awsl"], "is_tokenized": false} → {"id", "result", "status": 200}
    GET  /status/server   the fields of SHOW_STATUS
    GET  /status/client   what a connection of the genuine server's HTTP proxy would say of itself

It is the shape that the genuine server's code has (its README says `results`). Every failure is a 400 with
`description`, `type` and `status`, but for too many requests at a time, which is a 503: it is not the caller's fault.
The gateway, `danmaku serve`, is what to put in front of people.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service import wire
from service.errors import DanmakuError
from service.worker.server import Worker

CLIENT = b"http"


def create_http(worker: Worker, *, max_connect: int, cors: str) -> Starlette:
    busy = 0

    async def encode(request: Request) -> Response:
        nonlocal busy
        if busy >= max_connect:
            return _failure(f"{max_connect} requests are being answered; come back", "Overloaded", 503)
        busy += 1
        try:
            body = await _body(request)
            values = json.loads(body)
            texts = _texts(values)
            vectors, _ = await worker.encode(texts, len(body))
            answer = {"id": values["id"], "result": vectors, "status": 200}
            content = await asyncio.to_thread(orjson.dumps, answer, option=orjson.OPT_SERIALIZE_NUMPY)
            return Response(content, media_type="application/json")
        except (ValueError, RecursionError) as error:
            return _failure(str(error), type(error).__name__, 400)
        except DanmakuError as error:
            return _failure(str(error), type(error).__name__, 400)
        finally:
            busy -= 1

    async def server(request: Request) -> Response:
        return _json(worker.told_status(CLIENT))

    async def client(request: Request) -> Response:
        return _json({"client_version": wire.SERVER_VERSION, "identity": CLIENT.decode(), "output_fmt": "list"})

    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("POST", "/encode", encode),
        ("GET", "/status/server", server),
        ("GET", "/status/client", client),
    ]
    return Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in routes],
        middleware=[Middleware(CORSMiddleware, allow_origins=[cors], allow_methods=["*"], allow_headers=["*"])],
    )


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > wire.MAX_MESSAGE_BYTES:
            raise ValueError(f"the body is larger than {wire.MAX_MESSAGE_BYTES} bytes: send fewer texts")
    return bytes(body)


def _texts(values: Any) -> wire.Texts:
    """Raises ValueError that says what was expected."""
    if not isinstance(values, dict) or "id" not in values or not isinstance(values.get("texts"), list):
        raise ValueError('expected {"id": …, "texts": ["…", …]}')
    texts = values["texts"]
    if not texts:
        raise ValueError("texts is an empty list")
    # The frames' own check, so that both doors let the same in.
    checked = wire.Encode(CLIENT, b"0", json.dumps(texts).encode(), len(texts)).texts()
    if bool(values.get("is_tokenized")) != isinstance(checked[0], list):
        raise ValueError("texts are strings, or lists of strings if is_tokenized is true")
    return checked


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps({**content, "status": 200}), media_type="application/json")


def _failure(description: str, kind: str, status: int) -> Response:
    content = {"description": description, "type": kind, "status": status}
    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
