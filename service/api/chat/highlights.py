"""POST /highlights: finds the moments when viewers say something more often than at other times."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.chat.merge import MergeLine
from service.api.http.caller import Caller
from service.api.http.responses import ERRORS, PlainRoute, json_response
from service.api.http.schemas import Body
from service.api.http.state import get_state
from service.chat.highlights import STEP_S, WINDOW_S, Kinds, find_highlights, read_kinds
from service.chat.merging import Line
from service.errors import ModelChanged
from service.vectors import unit

router = APIRouter(tags=["chat"], route_class=PlainRoute)


class HighlightsRequest(Body):
    lines: list[MergeLine] = Field(description="All danmaku of a recording, in any order.")
    count: int = Field(10, ge=1, le=100, description="Maximum number of peaks.")


class RepresentativeBody(BaseModel):
    text: str
    count: int


class PeakBody(BaseModel):
    start: float = Field(description="Seconds; a few before viewers begin to react.")
    end: float
    at: float
    score: float = Field(description="Surprise, as in the curve.")
    lines: int
    kind: str = Field(description="laughter, shock, praise, song, question, …, or other.")
    representatives: list[RepresentativeBody] = Field(description="The main subject, in its most common spelling.")


class HighlightsBody(BaseModel):
    model: str
    fingerprint: str
    start: float = Field(description="Seconds of the first value of the curves.")
    step_s: float
    curve: list[float] = Field(description=f"How unexpected the lines are within {WINDOW_S:g} s around each step.")
    density: list[int] = Field(description="Number of lines in the same period.")
    peaks: list[PeakBody] = Field(description="The highest peak first.")


@router.post(
    "/highlights",
    openapi_extra=HighlightsRequest.openapi(),
    responses={**ERRORS, 200: {"model": HighlightsBody}},
)
async def highlights(request: Request) -> Response:
    """Finds the moments when viewers say something more often than at other times, and what they say.

    What a room says all the time, greetings at the start and farewells at the end count little. The more copies a text
    has, the less each copy counts.
    """
    caller, state = Caller(request), get_state(request)
    body = await HighlightsRequest.read(request)
    state.accept_texts(len(body.lines))
    names, examples = zip(*read_kinds(), strict=True)
    of_kinds = await caller.wait(state.embedder.embed(examples))
    embeddings = await caller.wait(state.embedder.embed([line.text for line in body.lines]))
    if of_kinds.model.fingerprint != embeddings.model.fingerprint:
        raise ModelChanged("the model changed during the request; try again")
    lines = [Line(line.text, line.time, line.id or str(index)) for index, line in enumerate(body.lines)]
    kinds = Kinds(names, unit(of_kinds.vectors))
    work = asyncio.to_thread(find_highlights, lines, unit(embeddings.vectors), state.judge, kinds, most=body.count)
    found = await caller.wait(work)
    return json_response(
        {
            "model": embeddings.model.name,
            "fingerprint": embeddings.model.fingerprint,
            "start": found.start,
            "step_s": STEP_S,
            "curve": [round(value, 2) for value in found.curve.tolist()],
            "density": [int(value) for value in found.density],
            "peaks": [asdict(peak) for peak in found.peaks],
        }
    )
