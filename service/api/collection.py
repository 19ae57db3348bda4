"""/collections: named sets of danmaku that POST /similar searches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect

from service.api.items import AddedBody, DanmakuBody, add_list, add_stream
from service.api.responses import ABOUT_COLLECTIONS, ERRORS, PlainRoute, json_response
from service.api.schemas import Body, explain
from service.api.state import Caller, State, state_of
from service.api.stream import NDJSON, is_stream
from service.collections.collections import check_name
from service.collections.rebuilding import Progress
from service.errors import ClientGone, DanmakuError
from service.stores.base import CollectionInfo, Item
from service.stores.filters import parse

router = APIRouter(tags=["collections"], route_class=PlainRoute)

Options = TypeVar("Options", bound=BaseModel)


class CollectionBody(BaseModel):
    name: str
    count: int = Field(description="Of danmaku; may include some that expired a moment ago.")
    dim: int
    fingerprint: str
    bytes: int
    created_at: float = Field(description="Unix time.")


class CollectionsBody(BaseModel):
    collections: list[CollectionBody]


class ItemBody(BaseModel):
    id: str
    text: str
    metadata: dict[str, object]
    count: int = Field(description="How often it was added.")
    expires_at: float | None = Field(description="Unix time.")


class PageBody(BaseModel):
    danmaku: list[ItemBody]
    next: str | None = Field(description="What to ask with as `after` for the next page; null: this was the last.")


class PageOptions(BaseModel, extra="forbid"):
    after: str | None = None
    limit: int = Field(100, ge=1, le=1000)


class DeleteRequest(Body):
    filter: dict[str, Any] = Field(examples=[{"room": 3}], description="{} is everything.")


class DeletedBody(BaseModel):
    deleted: int


def in_path(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def in_query(options: type[BaseModel]) -> list[dict[str, Any]]:
    fields = options.model_json_schema()["properties"].items()
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields]


def options_of(request: Request, kind: type[Options]) -> Options:
    """What the query says. Raises InvalidRequest."""
    try:
        return kind.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise explain(error, "the query") from None


NAMED = {"parameters": in_path("name")}
ANSWERS = {**ERRORS, **ABOUT_COLLECTIONS}


@router.get("/collections", responses={**ANSWERS, 200: {"model": CollectionsBody}})
async def list_collections(request: Request) -> Response:
    caller, state = Caller(request), state_of(request)
    await _read(request)
    infos = await caller.wait(state.collections.list())
    return json_response({"collections": [_described(info) for info in infos]})


@router.put("/collections/{name}", openapi_extra=NAMED, responses={**ANSWERS, 200: {"model": CollectionBody}})
async def create(request: Request) -> Response:
    """Makes it, empty, for vectors of the present model. If it is there already, nothing happens."""
    caller, state, name = await asked(request)
    return json_response(_described(await caller.wait(state.collections.create(name))))


@router.get("/collections/{name}", openapi_extra=NAMED, responses={**ANSWERS, 200: {"model": CollectionBody}})
async def describe(request: Request) -> Response:
    caller, state, name = await asked(request)
    return json_response(_described(await caller.wait(state.collections.describe(name))))


@router.delete("/collections/{name}", openapi_extra=NAMED, responses={**ANSWERS, 200: {"model": CollectionBody}})
async def drop(request: Request) -> Response:
    """Drops it with all its danmaku; the answer describes what it was."""
    caller, state, name = await asked(request)
    info = await caller.wait(state.collections.describe(name))
    await caller.wait(state.collections.drop(name))
    return json_response(_described(info))


@router.post(
    "/collections/{name}/danmaku",
    openapi_extra={
        **NAMED,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "items": {"anyOf": [{"type": "string"}, DanmakuBody.model_json_schema()]},
                    }
                },
                NDJSON: {"schema": {"type": "string"}},
            },
        },
    },
    responses={**ANSWERS, 200: {"model": AddedBody}},
)
async def add(request: Request) -> Response:
    """Adds danmaku, or replaces those of the same id: a list, kept whole, or NDJSON of any length.

    An item is a text or an object. One that cannot be taken is refused, with its reason, beside the others. Of an item
    that is there with the same text, the counts add up.
    """
    caller, state, name = Caller(request), state_of(request), check_name(request.path_params["name"])
    await state.collections.check(name)  # before a long body is read
    read = add_stream if is_stream(request.scope) else add_list
    return json_response((await read(request, caller, state, name)).shown())


@router.get(
    "/collections/{name}/danmaku",
    openapi_extra={"parameters": in_path("name") + in_query(PageOptions)},
    responses={**ANSWERS, 200: {"model": PageBody}},
)
async def page(request: Request) -> Response:
    """All danmaku, page by page; each that stays is seen once, whatever happens meanwhile."""
    caller, state, name = await asked(request)
    options = options_of(request, PageOptions)
    found = await caller.wait(state.collections.page(name, after=options.after, limit=options.limit))
    return json_response({"danmaku": [_shown(item) for item in found.items], "next": found.next})


ITEM_PATH = "/collections/{name}/danmaku/{id:path}"  # an id may hold a slash


@router.get(
    ITEM_PATH, openapi_extra={"parameters": in_path("name", "id")}, responses={**ANSWERS, 200: {"model": ItemBody}}
)
async def get(request: Request) -> Response:
    caller, state, name = await asked(request)
    return json_response(_shown(await caller.wait(state.collections.get(name, request.path_params["id"]))))


@router.delete(
    ITEM_PATH, openapi_extra={"parameters": in_path("name", "id")}, responses={**ANSWERS, 200: {"model": DeletedBody}}
)
async def delete(request: Request) -> Response:
    """1 was deleted, or 0: there was none."""
    caller, state, name = await asked(request)
    return json_response({"deleted": await caller.wait(state.collections.delete(name, [request.path_params["id"]]))})


@router.post(
    "/collections/{name}/delete",
    openapi_extra={**NAMED, **DeleteRequest.openapi()},
    responses={**ANSWERS, 200: {"model": DeletedBody}},
)
async def delete_where(request: Request) -> Response:
    """Deletes all danmaku whose metadata match the filter."""
    caller, state, name = Caller(request), state_of(request), check_name(request.path_params["name"])
    body = await DeleteRequest.of(request)  # which reads it: `asked` would leave nothing to wait for
    return json_response({"deleted": await caller.wait(state.collections.delete_where(name, parse(body.filter)))})


@router.post(
    "/collections/{name}/rebuild",
    openapi_extra=NAMED,
    responses={**ANSWERS, 200: {"content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def rebuild(request: Request) -> Response:
    """Embeds all texts anew, by the present model, and then takes the place of what was there.

    The answer is NDJSON: lines `{"done", "total"}`; the last has `"finished": true`, how many danmaku were `lost` since
    this model cannot embed them, and `reasons`; or `error` and `error_type`. It ends when the caller hangs up; the next
    one goes on with what is done.
    """
    _, state, name = await asked(request)
    progress = state.collections.rebuild(name)
    first = await anext(progress)  # what is wrong from the beginning has its own status
    return StreamingResponse(_lines(first, progress), media_type=NDJSON)


async def _lines(first: Progress, progress: AsyncGenerator[Progress, None]) -> AsyncIterator[bytes]:
    try:
        async with aclosing(progress):  # whoever hangs up ends it
            yield _line(_told(first))
            async for each in progress:
                yield _line(_told(each))
    except DanmakuError as error:
        yield _line({"error": str(error), "error_type": error.error_type})


def _told(progress: Progress) -> dict[str, object]:
    told: dict[str, object] = {"done": progress.done, "total": progress.total}
    if progress.is_finished:
        reasons = [{"id": id, "error": error.error, "error_type": error.error_type} for id, error in progress.reasons]
        told |= {"finished": True, "lost": progress.lost, "reasons": reasons}
    return told


def _line(content: dict[str, object]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)


async def asked(request: Request) -> tuple[Caller, State, str]:
    """Reads the body, mostly none, since who waits has to have read it."""
    caller, name = Caller(request), check_name(request.path_params["name"])
    await _read(request)
    return caller, state_of(request), name


async def _read(request: Request) -> None:
    try:
        await request.body()
    except ClientDisconnect:
        raise ClientGone("the caller hung up in the middle of the body") from None


def _described(info: CollectionInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "count": info.count,
        "dim": info.dim,
        "fingerprint": info.fingerprint,
        "bytes": info.bytes,
        "created_at": info.created_at,
    }


def _shown(item: Item) -> dict[str, object]:
    return {
        "id": item.id,
        "text": item.text,
        "metadata": item.metadata,
        "count": item.count,
        "expires_at": item.expires_at,
    }
