"""Answers: JSON straight from numpy, and every error in one shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.schemas import ErrorBody
from service.errors import DanmakuError, NotFound

# For the OpenAPI document: what any route that takes texts may answer besides 200.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The body is not JSON, or not the gzip that it says.",
        401: "An API key is needed, and this is none.",
        408: "The body did not come in time.",
        413: "Too many texts, or too large a body.",
        415: "A `Content-Encoding` other than gzip.",
        422: "JSON, but not what this route takes.",
        429: "Too much work is waiting; `Retry-After` says when to come back.",
        503: "No encoder can work; `Retry-After` says when to come back.",
        504: "Not done in time: `X-Timeout-Ms`, or the gateway's own limit.",
    }.items()
}

ABOUT_COLLECTIONS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "No such collection or danmaku, or no collections here."},
    409: {"model": ErrorBody, "description": "The collection is another model's, or is being rebuilt."},
    507: {"model": ErrorBody, "description": "There is no room for it."},
}


Endpoint = Callable[[Request], Awaitable[Response]]


class PlainRoute(APIRoute):
    """A route that is described as FastAPI's are and called without it: `endpoint(request)` gives the response.

    What FastAPI does around an endpoint would cost more than answering sixteen texts from the cache.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            return await super().handle(scope, receive, send)  # which says what is allowed
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class PlainRoutes:
    """Finds plain routes whose path is fixed by looking it up; all else is FastAPI's to find."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._endpoints: dict[tuple[str, str], Endpoint] = {
            (method, route.path): route.endpoint
            for route in routes
            if isinstance(route, PlainRoute) and not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            return await self._app(scope, receive, send)
        try:
            response = await endpoint(Request(scope, receive, send))
        except DanmakuError as error:
            response = error_response(error)
        await response(scope, receive, send)


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`content` may hold numpy arrays: orjson writes them as they are, where `tolist` would first make every number an
    object of Python's.
    """
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def error_response(error: DanmakuError) -> Response:
    headers = dict(error.headers)
    if error.retry_after_s:
        headers["Retry-After"] = str(error.retry_after_s)
    return json_response({"error": str(error), "error_type": error.error_type}, error.status, headers)


def answer_errors(app: FastAPI) -> None:
    """Makes what a route raises an answer in the shape of `ErrorBody`; `Observe` does so for what is unforeseen."""

    @app.exception_handler(DanmakuError)
    async def ours(request: Request, error: DanmakuError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return error_response(NotFound(f"there is no {request.url.path}; GET /docs lists the routes"))
        error_type = "method_not_allowed" if error.status_code == 405 else "invalid_request"
        content = {"error": error.detail, "error_type": error_type}
        return json_response(content, error.status_code, dict(error.headers or {}))
