"""GET /collections/{name}/map: places a collection in two dimensions, for the playground and other charts."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.collections.collection import ANSWERS, open_request, parse_query
from service.api.http.responses import PlainRoute
from service.api.http.schemas import describe_path, describe_query
from service.collections.map_cache import MOST_CHARACTERS

MAX_DANMAKU = 2000

router = APIRouter(tags=["collections"], route_class=PlainRoute)


class MapOptions(BaseModel, extra="forbid"):
    limit: int = Field(MAX_DANMAKU, ge=1, le=MAX_DANMAKU)


class PlaceBody(BaseModel):
    id: str
    text: str = Field(description=f"Its first {MOST_CHARACTERS} characters.")
    x: float
    y: float
    cluster: int


class ClusterBody(BaseModel):
    size: int
    centre: int = Field(description="Index of the danmaku nearest to its centre.")


class MapBody(BaseModel):
    fingerprint: str
    count: int = Field(description="Danmaku in the collection; the map shows at most the first `limit` of its pages.")
    mean: list[float] = Field(description="A vector v of length 1 is drawn at axes · (v − mean).")
    axes: list[list[float]] = Field(description="The two directions with the largest variance.")
    share: list[float] = Field(description="Share of the variance along each axis, from 0 to 1.")
    clusters: list[ClusterBody] = Field(description="Clusters by k-means of the vectors, the largest first.")
    danmaku: list[PlaceBody]


@router.get(
    "/collections/{name}/map",
    openapi_extra={"parameters": describe_path("name") + describe_query(MapOptions)},
    responses={**ANSWERS, 200: {"model": MapBody}},
)
async def map_(request: Request) -> Response:
    """Returns two-dimensional positions (principal components) and clusters (k-means) of a collection's danmaku."""
    caller, state, name = open_request(request)
    options = parse_query(request, MapOptions)
    body = await caller.wait(state.maps.get(state.collections, name, options.limit))
    return Response(body, media_type="application/json")
