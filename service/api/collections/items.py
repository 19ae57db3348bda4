"""Parses the items of a request and adds them to a collection.

A list is stored as one change. A stream may have any length: each slice of lines is read, embedded and stored before
the next is read, so it needs the memory of one slice and arrives no faster than it is stored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from service.accounts import pay_for_lines
from service.api.classify import add_labels
from service.api.http.body import read_body, slices
from service.api.http.caller import Caller
from service.api.http.schemas import MAX_ERRORS, explain_error
from service.api.http.state import State
from service.collections.collections import Entry
from service.errors import DanmakuError, InvalidRequest, TextError
from service.log import current_request
from service.shape import LONG_BYTES, MAX_METADATA_LEVELS, count_levels, parse_json
from service.stores.base import MAX_COUNT
from service.tasks import retry_overloaded, run_in_thread_if

SLICE_LINES = 1024
MAX_REASONS = 100  # in an answer; all refused items are counted
MAX_METADATA_BYTES = 8192


def _check_id(value: str) -> str:
    if value in (".", "..") or any(character < " " or character == "\x7f" for character in value):
        raise PydanticCustomError("id", "expected no control characters, and not `.` or `..`, which no URL can name")
    return value


class DanmakuBody(BaseModel):
    """An item, unless it is just a text."""

    model_config = ConfigDict(extra="forbid")

    text: str
    id: Annotated[str, AfterValidator(_check_id)] | None = Field(
        None, min_length=1, max_length=256, description="A hash of the text by default."
    )
    metadata: dict[str, Any] = Field(default_factory=dict, examples=[{"room": 3}])
    ttl_s: float | None = Field(None, gt=0, le=10**10, description="Seconds until it expires; never by default.")
    expires_at: float | None = Field(
        None, gt=0, le=10**11, description="Unix time when it expires; an alternative to ttl_s."
    )
    count: int = Field(
        1,
        ge=1,
        le=MAX_COUNT,
        description="Number of times that it was posted; counts add up to at most 2147483648.",
    )


def describe_items(kind: type[DanmakuBody] = DanmakuBody) -> dict[str, Any]:
    """Returns the OpenAPI description of a JSON list of items."""
    return {"schema": {"type": "array", "items": {"anyOf": [{"type": "string"}, kind.model_json_schema()]}}}


class AddedBody(BaseModel):
    added: int
    replaced: int
    refused: int
    reasons: list[dict[str, object]] = Field(description=f"index, error and error_type of the first {MAX_REASONS}.")


class Report:
    """The result of adding items."""

    def __init__(self) -> None:
        self.added = self.replaced = self.refused = 0
        self.reasons: list[TextError] = []

    def refuse(self, errors: Sequence[TextError]) -> None:
        self.refused += len(errors)
        self.reasons = sorted([*self.reasons, *errors], key=lambda error: error.index)[:MAX_REASONS]

    def to_json(self) -> dict[str, object]:
        return {"added": self.added, "replaced": self.replaced, "refused": self.refused, "reasons": self.reasons}


async def add_list(request: Request, caller: Caller, state: State, name: str, heads: Sequence[str]) -> Report:
    """Adds a JSON list. Raises MalformedRequest, InvalidRequest or TooLarge, and what `Collections.add` raises."""
    body = await read_body(request)
    is_long = len(body) > LONG_BYTES
    content = await run_in_thread_if(is_long, lambda: parse_json(body, "the body"))
    if not isinstance(content, list):
        raise InvalidRequest("invalid body: expected a list of texts or of objects with a text, or lines of NDJSON")
    state.accept_texts(len(content))
    entries = await run_in_thread_if(is_long, lambda: [parse_item(each) for each in content])
    report = Report()
    await caller.wait(_add(state, name, report, 0, entries, heads))
    return report


async def add_stream(request: Request, caller: Caller, state: State, name: str, heads: Sequence[str]) -> Report:
    """Adds the lines of a stream. Lines stored before an error stay, and the error reports their number."""
    report, done = Report(), 0
    limit = state.settings.max_body_bytes
    max_lines = min(SLICE_LINES, state.settings.max_request_texts)
    try:
        async for index, lines in slices(request.receive, max_lines=max_lines, max_line_bytes=limit):
            is_long = sum(map(len, lines)) > LONG_BYTES
            entries = await run_in_thread_if(is_long, lambda: [_parse_line(line) for line in lines])  # noqa: B023  # awaited
            await pay_for_lines(len(lines))
            await retry_overloaded(lambda: caller.wait(_add(state, name, report, index, entries, heads)))  # noqa: B023  # awaited
            done = index + len(lines)
            if record := current_request.get():
                record.texts = done
    except DanmakuError as error:
        error.args = (
            f"{error}; the first {done} lines were processed: {report.added} added, {report.refused} refused",
        )
        raise
    return report


async def _add(
    state: State, name: str, report: Report, first: int, items: Sequence[Entry | DanmakuError], heads: Sequence[str]
) -> None:
    """Adds the valid ones of `items`, the first of which has index `first`, and reports on all."""
    places = [place for place, entry in enumerate(items, first) if isinstance(entry, Entry)]
    entries = [entry for entry in items if isinstance(entry, Entry)]
    if heads:
        entries, _ = await add_labels(state, heads, entries)
    added = await state.collections.add(name, entries)
    report.added += added.added
    report.replaced += added.replaced
    report.refuse([TextError(places[error.index], error.error, error.error_type) for error in added.refused])
    report.refuse(
        [TextError(at, str(e), e.error_type) for at, e in enumerate(items, first) if isinstance(e, DanmakuError)]
    )


def _parse_line(line: bytes) -> Entry | DanmakuError:
    try:
        return parse_item(parse_json(line, "the line"))
    except DanmakuError as error:
        return error


def parse_item(content: object, kind: type[DanmakuBody] = DanmakuBody) -> Entry | DanmakuError:
    """Returns an item of a body, or why it is refused."""
    if isinstance(content, str):
        return Entry(content)
    if isinstance(content, dict) and len(content) > MAX_ERRORS:
        return InvalidRequest(f"invalid danmaku: {len(content)} fields; GET /docs lists the expected fields")
    try:
        body = kind.model_validate(content)
    except ValidationError as error:
        return explain_error(error, "the danmaku")
    if body.ttl_s is not None and body.expires_at is not None:
        return InvalidRequest("invalid ttl_s and expires_at: expected at most one of them")
    try:
        size = len(orjson.dumps(body.metadata))
    except TypeError as error:  # numbers beyond 64 bits
        return InvalidRequest(f"invalid metadata: cannot be stored as JSON: {error}")
    if inexact := [field for field, value in body.metadata.items() if isinstance(value, float) and _is_rounded(value)]:
        return InvalidRequest(
            f"invalid metadata.{inexact[0]}: a number of more than 64 bits would lose precision; expected a string"
        )
    if size > MAX_METADATA_BYTES:
        return InvalidRequest(f"invalid metadata: {size} bytes of JSON; expected at most {MAX_METADATA_BYTES}")
    if (levels := count_levels(body.metadata)) > MAX_METADATA_LEVELS:
        return InvalidRequest(
            f"invalid metadata: {levels} levels of lists and objects; expected at most {MAX_METADATA_LEVELS}"
        )
    expires_at = body.expires_at if body.ttl_s is None else time.time() + body.ttl_s
    return Entry(body.text, body.id, body.metadata, expires_at, body.count)


def _is_rounded(number: float) -> bool:
    """Returns whether a number may have been an integer that JSON readers turn into the nearest float64."""
    return number >= 2**64 or number <= -(2**63)
