"""Makes responses, with JSON straight from numpy and one shape for every error; finds directly called routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.http.pieces import send_response
from service.api.http.schemas import ErrorBody, OpenAIError
from service.errors import DanmakuError, InvalidRequest, MethodNotAllowed, NotFound

# For the OpenAPI document: what any route that takes texts may answer besides 200.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The body is not JSON, or its gzip is damaged.",
        401: "The API key is missing or invalid.",
        403: "The API key does not allow this request, or it comes from a page that `--cors-origins` does not allow.",
        408: "The body did not arrive in time.",
        413: "The request has too many texts, or its body is too large.",
        415: "The `Content-Encoding` is not gzip, or the `Content-Type` of a change is not JSON.",
        421: "The `Host` is unknown; `--allowed-hosts` adds hosts.",
        422: "The body is valid JSON, but not what this route expects.",
        429: "Too much work is waiting, or the API key has reached its limit; `Retry-After` says when to retry.",
        503: "No encoder is available, or no memory is left; `Retry-After` says when to retry.",
        504: "The deadline has passed: `X-Timeout-Ms`, or the gateway's own limit.",
    }.items()
}

ABOUT_COLLECTIONS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "No such collection or danmaku, or this gateway has no collections."},
    409: {"model": ErrorBody, "description": "The collection belongs to another model, or is being rebuilt."},
    507: {"model": ErrorBody, "description": "The store is full."},
}
# The same for routes in OpenAI's shape.
OPENAI_ERRORS = {status: {**answer, "model": OpenAIError} for status, answer in ERRORS.items()}

OPENAI_PATHS = "/v1/"
OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

Endpoint = Callable[[Request], Awaitable[Response]]


class PlainRoute(APIRoute):
    """A route that FastAPI documents but does not run: `endpoint(request)` returns the response.

    FastAPI's work around an endpoint would cost more than answering sixteen texts from the cache. So the models in
    `responses` only describe the answers, which routes build by hand; tests compare the two.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        # The name in generated clients; FastAPI's default also contains the path.
        super().__init__(path, endpoint, **{**settings, "operation_id": endpoint.__name__.rstrip("_")})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _find_method(scope) not in (self.methods or ()):
            return await super().handle(scope, receive, send)  # its headers list the allowed methods
        response: Response = await self.endpoint(Request(scope, receive, send))
        await send_response(response, scope, receive, send)


def _find_method(scope: Scope) -> str:
    """Returns GET for HEAD: the server leaves out the body of the answer (RFC 9110, 9.3.2)."""
    return "GET" if scope["method"] == "HEAD" else str(scope["method"])


class PlainRoutes:
    """ASGI middleware that finds plain routes; FastAPI finds all others."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._endpoints: dict[tuple[str, str], Endpoint] = {
            (method, route.path): route.endpoint
            for route in routes
            if isinstance(route, PlainRoute) and not route.param_convertors
            for method in route.methods or ()
        }
        self._patterns = [route for route in routes if isinstance(route, PlainRoute) and route.param_convertors]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._find(scope) if scope["type"] == "http" else None
        if endpoint is None:
            return await self._app(scope, receive, send)
        response = await endpoint(Request(scope, receive, send))
        await send_response(response, scope, receive, send)

    def _find(self, scope: Scope) -> Endpoint | None:
        method, path = _find_method(scope), scope["path"]
        if endpoint := self._endpoints.get((method, path)):
            return endpoint
        for route in self._patterns:
            if method in (route.methods or ()) and (found := route.path_regex.match(path)):
                scope["path_params"] = {
                    name: route.param_convertors[name].convert(value) for name, value in found.groupdict().items()
                }
                return route.endpoint
        return None


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns `content` as JSON. orjson writes numpy arrays directly, without making Python objects of the numbers."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def json_line(content: object) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def error_content(error: DanmakuError) -> dict[str, object]:
    """Returns the JSON content for an error: see `ErrorBody`."""
    return {"error": str(error), "error_type": error.error_type}


def openai_error_content(error: DanmakuError) -> dict[str, object]:
    """Returns the JSON content for an error below /v1, where OpenAI's clients look for its message."""
    kind = OPENAI_TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    content = {"message": str(error), "type": kind, "param": error.param, "code": error.error_type}
    return {"error": content, "message": str(error)}


def error_response(error: DanmakuError) -> ASGIApp:
    headers = dict(error.headers)
    if error.retry_after_s:
        headers["Retry-After"] = str(error.retry_after_s)

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        describe = openai_error_content if scope["path"].startswith(OPENAI_PATHS) else error_content
        await json_response(describe(error), error.status, headers)(scope, receive, send)

    return respond


async def raise_http_error(request: Request, error: Exception) -> NoReturn:
    """Raises an HTTPException of starlette, which finds routes, as one of ours for `AnswerErrors` to answer."""
    assert isinstance(error, HTTPException)  # an exception handler is registered for it alone
    if error.status_code == 404:
        raise NotFound(f"no route {request.url.path}; GET /docs lists the routes") from None
    failure = MethodNotAllowed(error.detail) if error.status_code == 405 else InvalidRequest(error.detail)
    failure.status, failure.headers = error.status_code, error.headers or {}
    raise failure from None
