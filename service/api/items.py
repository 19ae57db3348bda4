"""Danmaku on their way into a collection: what an item looks like, and which are refused.

A list is one change, done whole. A stream is as long as it likes: a slice of lines is read, embedded and kept before
the next is read, so it takes no more memory than a slice and comes no quicker than it is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from service.api.schemas import explain
from service.api.state import Caller, State
from service.api.stream import slices
from service.collections.collections import Entry
from service.errors import ClientGone, DanmakuError, InvalidRequest, MalformedRequest, Overloaded, TextError
from service.log import serving

SLICE_LINES = 1024
REASONS = 100  # told of those that were refused; all are counted
MOST_METADATA_BYTES = 8192


class DanmakuBody(BaseModel):
    """Or just a text."""

    model_config = ConfigDict(extra="forbid")

    text: str
    id: str | None = Field(None, min_length=1, max_length=256, description="By default a hash of the text.")
    metadata: dict[str, Any] = Field(default_factory=dict, examples=[{"room": 3}])
    ttl_s: float | None = Field(None, gt=0, le=10**10, description="How long it stays, in seconds; default: for good.")
    expires_at: float | None = Field(None, gt=0, le=10**11, description="Instead: until when, in Unix time.")
    count: int = Field(1, ge=1, le=2**31, description="How often it was posted; adds up.")


class AddedBody(BaseModel):
    added: int
    replaced: int
    refused: int
    reasons: list[dict[str, object]] = Field(description=f"Of the first {REASONS}: index, error, error_type.")


class Report:
    """What became of items."""

    def __init__(self) -> None:
        self.added = self.replaced = self.refused = 0
        self.reasons: list[TextError] = []

    def refuse(self, errors: Sequence[TextError]) -> None:
        self.refused += len(errors)
        self.reasons = sorted([*self.reasons, *errors], key=lambda error: error.index)[:REASONS]

    def shown(self) -> dict[str, object]:
        return {"added": self.added, "replaced": self.replaced, "refused": self.refused, "reasons": self.reasons}


async def add_list(request: Request, caller: Caller, state: State, name: str) -> Report:
    """Raises MalformedRequest, InvalidRequest, TooLarge for the body, and what `Collections.add` does."""
    try:
        content = orjson.loads(await request.body())
    except ClientDisconnect:
        raise ClientGone("the caller hung up in the middle of the body") from None
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(content, list):
        raise InvalidRequest("the body: expected a list of texts, or of objects with a text; or lines of NDJSON")
    state.accept_texts(len(content))
    report = Report()
    await caller.wait(_add(state, name, report, 0, [_read(each) for each in content]))
    return report


async def add_stream(request: Request, caller: Caller, state: State, name: str) -> Report:
    """What was kept before an error stays, and the error says up to where."""
    report, kept = Report(), 0
    limit = state.settings.max_body_bytes
    most = min(SLICE_LINES, state.settings.max_request_texts)
    try:
        async for index, lines in slices(request.receive, max_lines=most, max_line_bytes=limit):
            entries = [_read_line(line) for line in lines]
            while True:
                try:
                    async with asyncio.timeout(caller.timeout_s):
                        await _add(state, name, report, index, entries)
                    break
                except Overloaded as overloaded:  # a stream has the time, and whoever sends it could do no better
                    await asyncio.sleep(overloaded.retry_after_s or 1)
                except TimeoutError:
                    raise caller.out_of_time() from None
            kept = index + len(lines)
            if served := serving.get():
                served.texts = kept
    except DanmakuError as error:
        error.args = (
            f"{error}; the first {kept} lines were dealt with: {report.added} added, {report.refused} refused",
        )
        raise
    return report


async def _add(state: State, name: str, report: Report, first: int, read: Sequence[Entry | DanmakuError]) -> None:
    places = [place for place, entry in enumerate(read, first) if isinstance(entry, Entry)]
    added = await state.collections.add(name, [entry for entry in read if isinstance(entry, Entry)])
    report.added += added.added
    report.replaced += added.replaced
    report.refuse([TextError(places[error.index], error.error, error.error_type) for error in added.refused])
    report.refuse(
        [TextError(at, str(e), e.error_type) for at, e in enumerate(read, first) if isinstance(e, DanmakuError)]
    )


def _read_line(line: bytes) -> Entry | DanmakuError:
    try:
        return _read(orjson.loads(line))
    except ValueError as error:
        return MalformedRequest(f"the line is not JSON: {error}")


def _read(content: object) -> Entry | DanmakuError:
    if isinstance(content, str):
        return Entry(content)
    try:
        body = DanmakuBody.model_validate(content)
    except ValidationError as error:
        return explain(error, "the danmaku")
    if body.ttl_s is not None and body.expires_at is not None:
        return InvalidRequest("ttl_s and expires_at: expected one of the two")
    try:
        size = len(orjson.dumps(body.metadata))
    except TypeError as error:  # numbers beyond 64 bits, or hundreds of levels
        return InvalidRequest(f"metadata: cannot be kept: {error}")
    if size > MOST_METADATA_BYTES:
        return InvalidRequest(f"metadata: {size} bytes of JSON; at most {MOST_METADATA_BYTES} are taken")
    expires_at = body.expires_at if body.ttl_s is None else time.time() + body.ttl_s
    return Entry(body.text, body.id, body.metadata, expires_at, body.count)
