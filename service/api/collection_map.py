"""GET /collections/{name}/map: a collection on a plane, for the playground and for whoever wants to draw it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.collection import ANSWERS, asked, in_path, in_query, options_of
from service.api.responses import PlainRoute
from service.collections.map_cache import MOST_CHARACTERS

MOST_DANMAKU = 2000

router = APIRouter(tags=["collections"], route_class=PlainRoute)


class MapOptions(BaseModel, extra="forbid"):
    limit: int = Field(MOST_DANMAKU, ge=1, le=MOST_DANMAKU)


class PlaceBody(BaseModel):
    id: str
    text: str = Field(description=f"Its first {MOST_CHARACTERS} characters.")
    x: float
    y: float
    cluster: int


class ClusterBody(BaseModel):
    size: int
    centre: int = Field(description="Which of `danmaku` is nearest to its middle.")


class MapBody(BaseModel):
    fingerprint: str
    count: int = Field(description="Of danmaku in the collection; the map shows at most `limit`, as they are paged.")
    mean: list[float] = Field(description="A vector v of length 1 has its place at axes · (v − mean).")
    axes: list[list[float]] = Field(description="The two directions in which the vectors differ most.")
    share: list[float] = Field(description="How much of all differences, from 0 to 1, is along either axis.")
    clusters: list[ClusterBody] = Field(description="By k-means of the vectors, the largest first.")
    danmaku: list[PlaceBody]


@router.get(
    "/collections/{name}/map",
    openapi_extra={"parameters": in_path("name") + in_query(MapOptions)},
    responses={**ANSWERS, 200: {"model": MapBody}},
)
async def map_(request: Request) -> Response:
    """Places on a plane (principal components) and clusters (k-means) of a collection's danmaku."""
    caller, state, name = await asked(request)
    options = options_of(request, MapOptions)
    body = await caller.wait(state.maps.of(state.collections, name, options.limit))
    return Response(body, media_type="application/json")
