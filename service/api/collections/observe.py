"""/collections/{name}/observe and /topics: embed the lines of a live chat once, and return its topics."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from operator import itemgetter
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from service.api.classify import add_labels
from service.api.collections.collection import ANSWERS, NAMED, AddOptions, open_request
from service.api.collections.items import DanmakuBody, describe_items, parse_item
from service.api.http.body import read_body
from service.api.http.headers import is_ndjson
from service.api.http.responses import PlainRoute, error_content, json_response
from service.api.http.schemas import LabelBody, describe_path, describe_query
from service.api.http.state import State
from service.chat.topics import BINS, WINDOW_S, Topics, describe_topics
from service.errors import DanmakuError, InvalidRequest, Overloaded, UnknownContentType
from service.log import current_request
from service.shape import parse_json

MAX_LISTENERS = 100  # to topics of this gateway
EVERY_S = 1.0  # between events
ALIVE_S = 15.0  # after this long without an event, a comment is sent: proxies may close a silent connection
EVENTS = "text/event-stream"

router = APIRouter(tags=["chat"], route_class=PlainRoute)


class LineBody(DanmakuBody):
    time: float | None = Field(
        None,
        strict=True,
        allow_inf_nan=False,
        description="Seconds, by any clock that never goes back; now by default.",
    )


class NearestBody(BaseModel):
    id: str
    text: str
    score: float
    relation: str
    count: int


class LineTopicBody(BaseModel):
    id: int
    count: int = Field(description=f"Number of lines of this topic within {WINDOW_S:g} s, this one included.")


class ObservedBody(BaseModel):
    text: str
    nearest: NearestBody | None = Field(description="The nearest earlier danmaku of the collection.")
    topic: LineTopicBody | None
    labels: dict[str, LabelBody] | None = Field(None, description="Present with `heads`: labels by name of the head.")


class ObserveBody(BaseModel):
    model: str
    fingerprint: str
    results: list[ObservedBody] = Field(description="One per line; null, with an entry in errors, for a refused line.")
    added: int
    replaced: int
    errors: list[dict[str, object]]


class SaidBody(BaseModel):
    text: str = Field(description="The most common spelling.")
    count: int = Field(description="Number of lines within the window with this meaning.")


class TopicBody(BaseModel):
    id: int = Field(description="Stays the same while the topic lasts.")
    text: str = Field(description="The most frequent text.")
    count: int = Field(description="Number of lines within the window.")
    rise: float = Field(description="Ratio of the current frequency to the earlier one; a topic above 1 is rising.")
    first: float = Field(description="Start time in seconds.")
    curve: list[int] = Field(description=f"Count in each of {BINS} parts of the window; the last is now.")
    said: list[SaidBody] = Field(description="Texts, merged by meaning; the most frequent first.")


class MergedBody(SaidBody):
    topic: int


class TopicsBody(BaseModel):
    window_s: float
    now: float | None = Field(description="Time of the last line; null if there was none.")
    lines: int = Field(description="Number of lines within the window.")
    topics: list[TopicBody] = Field(description="The largest topic first.")
    latest: list[MergedBody] = Field(description="The latest texts, merged by meaning; the newest first.")


@router.post(
    "/collections/{name}/observe",
    openapi_extra={
        "parameters": describe_path("name") + describe_query(AddOptions),
        "requestBody": {"required": True, "content": {"application/json": describe_items(LineBody)}},
    },
    responses={**ANSWERS, 200: {"model": ObserveBody}},
)
async def observe(request: Request) -> Response:
    """Embeds each line of a chat once, returns its nearest danmaku and its topic, and stores it.

    Items and `heads` are as for `POST /collections/{name}/danmaku`; an item may have a `time`. An invalid one is
    refused with its reason and does not affect the others.
    """
    if is_ndjson(request.scope):
        raise UnknownContentType("invalid Content-Type for observe: expected application/json, a list of lines")
    caller, state, name = open_request(request)
    heads = AddOptions.read_heads(request, state)
    content = parse_json(await read_body(request), "the body")
    if not isinstance(content, list):
        raise InvalidRequest("invalid body: expected a list of texts or of objects with a text")
    state.accept_texts(len(content))
    now = time.time()
    errors: list[dict[str, Any]] = []
    lines = []
    for index, item in enumerate(content):
        parsed = parse_item(item, LineBody)
        if isinstance(parsed, DanmakuError):
            errors.append({"index": index, **error_content(parsed)})
        else:
            at = item.get("time") if isinstance(item, dict) else None
            lines.append((index, now if at is None else float(at), parsed))
    entries = [entry for *_, entry in lines]
    labels: list[Any] = []
    if heads:
        entries, labels = await caller.wait(add_labels(state, heads, entries))
    observed = await caller.wait(state.collections.observe(name, entries))
    model = observed.model
    topics = state.rooms.open(name, state.judge, model.dim, model.fingerprint)
    results: list[dict[str, object] | None] = [None] * len(content)
    for row, (index, at, entry) in enumerate(lines):
        if math.isnan(observed.vectors[row, 0]):
            continue
        topic, count = topics.add(entry.text, at, observed.vectors[row])
        nearest = [
            {
                "id": match.item.id,
                "text": match.item.text,
                "score": match.score,
                "relation": state.judge.judge(entry.text, match.item.text, match.score).relation,
                "count": match.item.count,
            }
            for match in observed.matches[row]
        ]
        results[index] = {
            "text": entry.text,
            "nearest": nearest[0] if nearest else None,
            "topic": {"id": topic, "count": count},
            **({"labels": labels[row]} if heads else {}),
        }
    for error in observed.added.refused:
        errors.append({"index": lines[error.index][0], "error": error.error, "error_type": error.error_type})
    return json_response(
        {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "results": results,
            "added": observed.added.added,
            "replaced": observed.added.replaced,
            "errors": sorted(errors, key=itemgetter("index")),
        }
    )


@router.get(
    "/collections/{name}/topics",
    openapi_extra=NAMED,
    responses={
        **ANSWERS,
        200: {"model": TopicsBody, "content": {EVENTS: {"schema": {"type": "string"}}}},
    },
)
async def topics(request: Request) -> Response:
    """Returns the topics of the lines observed within the last minute.

    With `Accept: text/event-stream`, the response has an event for every change, at most one per second. A gateway
    knows only the topics that it has observed since its start; a collection without observations has none.
    """
    caller, state, name = open_request(request)
    await caller.wait(state.collections.check(name))
    if EVENTS not in request.headers.get("accept", ""):
        return json_response(describe_room(state.rooms.find(name)))
    return stream_events(state, _follow(state, name))


def stream_events(state: State, events: AsyncGenerator[dict[str, object] | None, None]) -> Response:
    """Sends values as events, and a comment for None. Raises Overloaded if there are too many listeners."""
    if record := current_request.get():
        record.is_stream = True
    if state.listeners >= MAX_LISTENERS:
        raise Overloaded(f"too many listeners: {MAX_LISTENERS} are connected; retry when one has disconnected", 5)
    return StreamingResponse(_send(state, events), media_type=EVENTS, headers={"cache-control": "no-store"})


async def _send(state: State, events: AsyncGenerator[dict[str, object] | None, None]) -> AsyncGenerator[bytes, None]:
    state.listeners += 1
    try:
        async with aclosing(events):
            async for event in events:
                if state.is_stopping:
                    return
                yield b": alive\n\n" if event is None else b"data: " + orjson.dumps(event) + b"\n\n"
    finally:
        state.listeners -= 1


async def _follow(state: State, name: str) -> AsyncGenerator[dict[str, object] | None, None]:
    """Yields the topics of a room after every change, None if there was none for a while."""
    seen: tuple[int, int] | None = None
    silent_s = 0.0
    while not state.is_stopping:
        found = state.rooms.find(name)
        current = (id(found), found.changes if found else 0)
        if current != seen:
            seen, silent_s = current, 0.0
            yield describe_room(found)
        elif silent_s >= ALIVE_S:
            silent_s = 0.0
            yield None
        await asyncio.sleep(EVERY_S)
        silent_s += EVERY_S


def describe_room(found: Topics | None) -> dict[str, object]:
    """Returns a TopicsBody."""
    if found is None:
        return {"window_s": WINDOW_S, "now": None, "lines": 0, "topics": [], "latest": []}
    return {
        "window_s": WINDOW_S,
        "now": found.now,
        "lines": found.lines,
        "topics": describe_topics(found.list()),
        "latest": [asdict(merged) for merged in found.latest()],
    }
