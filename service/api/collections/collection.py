"""/collections: manages named sets of danmaku that POST /similar searches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, ValidationError

from service.accounts import current_account
from service.api.collections.items import AddedBody, add_list, add_stream, describe_items
from service.api.http.audit import audit
from service.api.http.caller import Caller
from service.api.http.headers import NDJSON, is_ndjson
from service.api.http.responses import ABOUT_COLLECTIONS, ERRORS, PlainRoute, error_content, json_line, json_response
from service.api.http.schemas import Body, describe_path, describe_query, explain_error
from service.api.http.state import State, get_state
from service.collections.collections import check_name
from service.collections.rebuilding import Progress
from service.errors import DanmakuError
from service.log import current_request
from service.stores.base import Item
from service.stores.filters import parse

router = APIRouter(tags=["collections"], route_class=PlainRoute)

Options = TypeVar("Options", bound=BaseModel)


class CollectionBody(BaseModel):
    name: str
    count: int = Field(description="Number of danmaku; may include some that expired a moment ago.")
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
    count: int = Field(description="Number of times that it was added.")
    expires_at: float | None = Field(description="Unix time.")


class PageBody(BaseModel):
    danmaku: list[ItemBody]
    next: str | None = Field(description="Value of `after` for the next page; null on the last page.")


class PageOptions(BaseModel, extra="forbid"):
    after: str | None = None
    limit: int = Field(100, ge=1, le=1000)


class DeleteRequest(Body):
    filter: dict[str, Any] = Field(examples=[{"room": 3}], description="{} deletes everything.")


class DeletedBody(BaseModel):
    deleted: int


def parse_query(request: Request, kind: type[Options]) -> Options:
    """Returns the options in the URL's query. Raises InvalidRequest."""
    try:
        return kind.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise explain_error(error, "the query") from None


NAMED = {"parameters": describe_path("name")}
ANSWERS = {**ERRORS, **ABOUT_COLLECTIONS}


@router.get("/collections", responses={**ANSWERS, 200: {"model": CollectionsBody}})
async def list_collections(request: Request) -> Response:
    """Returns the collections that the API key may use."""
    infos = await Caller(request).wait(get_state(request).collections.list())
    account = current_account.get()
    return json_response({"collections": [info for info in infos if account is None or account.may_use(info.name)]})


@router.put("/collections/{name}", openapi_extra=NAMED, responses={**ANSWERS, 200: {"model": CollectionBody}})
async def create(request: Request) -> Response:
    """Creates an empty collection for vectors of the current model, unless it exists."""
    caller, state, name = open_request(request)
    return json_response(await caller.wait(state.collections.create(name)))


@router.get("/collections/{name}", openapi_extra=NAMED, responses={**ANSWERS, 200: {"model": CollectionBody}})
async def describe(request: Request) -> Response:
    caller, state, name = open_request(request)
    return json_response(await caller.wait(state.collections.describe(name)))


@router.delete("/collections/{name}", openapi_extra=NAMED, responses={**ANSWERS, 200: {"model": CollectionBody}})
async def drop(request: Request) -> Response:
    """Drops a collection with all its danmaku; the response describes the dropped collection."""
    caller, state, name = open_request(request)
    info = await caller.wait(state.collections.describe(name))
    await caller.wait(state.collections.drop(name))
    state.rooms.forget(name)
    audit("dropped collection %r with %d danmaku", name, info.count)
    return json_response(info)


class AddOptions(BaseModel, extra="forbid"):
    heads: str = Field(
        "",
        description="Names of heads, separated by commas; adds the label of each to the metadata, for filters.",
    )

    @classmethod
    def read_heads(cls, request: Request, state: State) -> list[str]:
        """Returns the names of heads in the query. Raises InvalidRequest, and what `Heads.select` raises."""
        if names := [name for name in parse_query(request, cls).heads.split(",") if name]:
            state.heads.select(names, state.embedder.model)
        return names


@router.post(
    "/collections/{name}/danmaku",
    openapi_extra={
        "parameters": describe_path("name") + describe_query(AddOptions),
        "requestBody": {
            "required": True,
            "content": {
                "application/json": describe_items(),
                NDJSON: {"schema": {"type": "string"}},
            },
        },
    },
    responses={**ANSWERS, 200: {"model": AddedBody}},
)
async def add(request: Request) -> Response:
    """Adds danmaku, or replaces those with the same id: a list, stored as one change, or NDJSON of any length.

    An item is a text or an object. An invalid item is refused with its reason and does not affect the others. If an
    item exists with the same text, the counts add up.
    """
    is_stream = is_ndjson(request.scope)
    if record := current_request.get():
        record.is_stream = is_stream
    caller, state = Caller(request, is_stream=is_stream), get_state(request)
    name = check_name(request.path_params["name"])
    await state.collections.check(name)  # checked before a long body is read
    heads = AddOptions.read_heads(request, state)
    read = add_stream if is_stream else add_list
    return json_response((await read(request, caller, state, name, heads)).to_json())


@router.get(
    "/collections/{name}/danmaku",
    openapi_extra={"parameters": describe_path("name") + describe_query(PageOptions)},
    responses={**ANSWERS, 200: {"model": PageBody}},
)
async def page(request: Request) -> Response:
    """Returns danmaku page by page; each one that stays in the collection appears exactly once."""
    caller, state, name = open_request(request)
    options = parse_query(request, PageOptions)
    found = await caller.wait(state.collections.page(name, after=options.after, limit=options.limit))
    return json_response({"danmaku": [_format_item(item) for item in found.items], "next": found.next})


ITEM_PATH = "/collections/{name}/danmaku/{id:path}"  # an id may hold a slash


@router.get(
    ITEM_PATH,
    openapi_extra={"parameters": describe_path("name", "id")},
    responses={**ANSWERS, 200: {"model": ItemBody}},
)
async def get(request: Request) -> Response:
    caller, state, name = open_request(request)
    return json_response(_format_item(await caller.wait(state.collections.get(name, request.path_params["id"]))))


@router.delete(
    ITEM_PATH,
    openapi_extra={"parameters": describe_path("name", "id")},
    responses={**ANSWERS, 200: {"model": DeletedBody}},
)
async def delete(request: Request) -> Response:
    """Returns 1 if the danmaku was deleted, 0 if there was none."""
    caller, state, name = open_request(request)
    return json_response({"deleted": await caller.wait(state.collections.delete(name, [request.path_params["id"]]))})


@router.post(
    "/collections/{name}/delete",
    openapi_extra={**NAMED, **DeleteRequest.openapi()},
    responses={**ANSWERS, 200: {"model": DeletedBody}},
)
async def delete_where(request: Request) -> Response:
    """Deletes all danmaku whose metadata match the filter."""
    caller, state, name = open_request(request)
    body = await DeleteRequest.read(request)
    deleted = await caller.wait(state.collections.delete_where(name, parse(body.filter)))
    audit("deleted %d danmaku of collection %r by a filter", deleted, name)
    return json_response({"deleted": deleted})


@router.post(
    "/collections/{name}/rebuild",
    openapi_extra=NAMED,
    responses={**ANSWERS, 200: {"content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def rebuild(request: Request) -> Response:
    """Re-embeds all texts with the current model, and then replaces the old vectors.

    The response is NDJSON with lines `{"done", "total"}`. The last line has `"finished": true`, the number of danmaku
    that were `lost` because the model cannot embed them, and `reasons`; or it has `error` and `error_type`. The rebuild
    stops when the caller disconnects; the next one resumes it.
    """
    _, state, name = open_request(request)
    progress = state.collections.rebuild(name)
    first = await anext(progress)  # raises errors that have their own status
    return StreamingResponse(_format_progress(name, first, progress), media_type=NDJSON)


async def _format_progress(
    name: str, first: Progress, progress: AsyncGenerator[Progress, None]
) -> AsyncIterator[bytes]:
    last = first
    try:
        async with aclosing(progress):  # stops the rebuild when the caller hangs up
            yield json_line(_describe_progress(first))
            async for last in progress:
                yield json_line(_describe_progress(last))
    except DanmakuError as error:
        yield json_line(error_content(error))
    finally:
        if last.is_finished:
            audit("rebuilt collection %r: %d danmaku were kept, %d lost", name, last.total - last.lost, last.lost)


def _describe_progress(progress: Progress) -> dict[str, object]:
    content: dict[str, object] = {"done": progress.done, "total": progress.total}
    if progress.is_finished:
        reasons = [{"id": id, "error": error.error, "error_type": error.error_type} for id, error in progress.reasons]
        content |= {"finished": True, "lost": progress.lost, "reasons": reasons}
    return content


def open_request(request: Request) -> tuple[Caller, State, str]:
    """Returns what a route about the collection in the path needs. Raises InvalidRequest for an invalid name."""
    return Caller(request), get_state(request), check_name(request.path_params["name"])


def _format_item(item: Item) -> dict[str, object]:
    return {
        "id": item.id,
        "text": item.text,
        "metadata": item.metadata,
        "count": item.count,
        "expires_at": item.expires_at,
    }
