"""POST /merge: merges and counts danmaku that mean the same within a few seconds of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError

from service.api.http.caller import Caller
from service.api.http.headers import NDJSON, is_ndjson
from service.api.http.responses import ERRORS, PlainRoute, error_content, json_line, json_response
from service.api.http.schemas import Body, describe_query, explain_error
from service.api.http.state import get_state
from service.api.stream import EmbedStream, refuse_options
from service.chat.merging import WINDOW_S, Group, Line, Merger, merge
from service.errors import DanmakuError, InvalidRequest, TooLarge
from service.vectors import unit

router = APIRouter(tags=["chat"], route_class=PlainRoute)


class MergeOptions(BaseModel, extra="forbid"):
    """The options of a stream in the query; a JSON body has fields for them."""

    window_s: float = Field(
        WINDOW_S, gt=0, le=86_400, description="A line joins a group that began at most this many seconds earlier."
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description="Minimum probability of the same meaning for a merge; the model's own by default."
    )
    rule: Literal["meaning", "spelling", "identical"] = Field(
        "meaning", description="What to merge: the same meaning, different spellings of a text, or identical texts."
    )


class MergeLine(BaseModel, extra="forbid"):
    text: str
    time: float = Field(description="Seconds.", allow_inf_nan=False)
    id: str | None = Field(None, description="The index of the line by default.")


class MergeRequest(MergeOptions, Body):
    lines: list[MergeLine] = Field(examples=[[{"text": "草", "time": 1.0}, {"text": "草草草", "time": 2.5}]])


class GroupBody(BaseModel):
    text: str = Field(description="The most common spelling.")
    count: int
    first: float = Field(description="Seconds.")
    last: float
    ids: list[str] = Field(description="Ids of its lines, in order of time.")


class MergeBody(BaseModel):
    model: str
    fingerprint: str
    groups: list[GroupBody] = Field(description="Groups in the order of their first lines; every line is in one group.")


@router.post(
    "/merge",
    openapi_extra={
        **MergeRequest.openapi({NDJSON: {"type": "string"}}),
        "parameters": describe_query(MergeOptions),
    },
    responses={**ERRORS, 200: {"model": MergeBody}},
)
async def merge_lines(request: Request) -> Response:
    """Merges danmaku that mean the same within `window_s`, in any spelling; opposites stay separate.

    For NDJSON, with lines `{"text", "time", "id"}` in order of time, the response has one group per line, as soon as
    its window is over, in constant memory. The first line names the model; the last has `"finished": true`. A refused
    line gets a line with its index and error.
    """
    if is_ndjson(request.scope):
        return MergeStream(request)
    refuse_options(request, MergeOptions)
    caller, state = Caller(request), get_state(request)
    body = await MergeRequest.read(request)
    state.accept_texts(len(body.lines))
    embeddings = await caller.wait(state.embedder.embed([line.text for line in body.lines]))
    lines = [_to_line(line, index) for index, line in enumerate(body.lines)]
    options = body.model_dump(include=set(MergeOptions.model_fields))
    work = asyncio.to_thread(merge, lines, unit(embeddings.vectors), state.judge, **options)
    groups = await caller.wait(work)
    model = embeddings.model
    return json_response({"model": model.name, "fingerprint": model.fingerprint, "groups": list(map(_format, groups))})


class MergeStream(EmbedStream):
    """The response to a stream of lines: it sends each group as soon as its window is over."""

    options_type = MergeOptions

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        assert isinstance(self._options, MergeOptions)
        self._merger = Merger(self._state.judge, self._model.dim, **self._options.model_dump())
        self._turn = asyncio.Lock()  # tasks get it in the order in which they ask, so slices are merged in order
        self._lines = self._groups = 0

    async def _answer_lines(self, first: int, lines: Sequence[bytes]) -> tuple[list[bytes], int]:
        async with self._turn:
            held = await self._hold(lines)
            read = [_parse_line(line) for line in lines]
            good = [line for line in read if isinstance(line, MergeLine)]
            embeddings = await self._embed([line.text for line in good], first + len(lines))
            return await asyncio.to_thread(self._merge, first, read, unit(embeddings.vectors)), held

    def _merge(self, first: int, read: Sequence[MergeLine | DanmakuError], vectors: np.ndarray) -> list[bytes]:
        answers: list[Group | dict[str, object]] = []
        rows = iter(vectors)
        for index, line in enumerate(read, first):
            try:
                if isinstance(line, DanmakuError):
                    raise line
                answers += self._merger.add([_to_line(line, index)], next(rows)[None])
                self._lines += 1
            except TooLarge:
                raise
            except (DanmakuError, ValueError) as error:
                refused = error if isinstance(error, DanmakuError) else InvalidRequest(str(error))
                answers.append({"index": index, **error_content(refused)})
        return self._format(answers)

    def _answer_end(self) -> list[bytes]:
        closed = self._format(self._merger.finish())
        return [*closed, json_line({"finished": True, "lines": self._lines, "groups": self._groups})]

    def _format(self, answers: Iterable[Group | dict[str, object]]) -> list[bytes]:
        lines = []
        for answer in answers:
            self._groups += isinstance(answer, Group)
            lines.append(json_line(_format(answer) if isinstance(answer, Group) else answer))
        return lines


def _parse_line(line: bytes) -> MergeLine | DanmakuError:
    try:
        return MergeLine.model_validate_json(line)
    except ValidationError as error:
        return explain_error(error, "the line")


def _to_line(line: MergeLine, index: int) -> Line:
    return Line(line.text, line.time, str(index) if line.id is None else line.id)


def _format(group: Group) -> dict[str, object]:
    return {"text": group.text, "count": group.count, "first": group.first, "last": group.last, "ids": group.ids}
