"""POST /similar: ranks candidates, or the danmaku of a collection, by their similarity to a query."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.http.caller import Caller
from service.api.http.responses import ABOUT_COLLECTIONS, ERRORS, PlainRoute, json_response
from service.api.http.schemas import SimilarRequest, SimilarResponse
from service.api.http.state import get_state
from service.api.search import label_matches, relate, search
from service.api.vectors import check_dimensions
from service.ranking import rank

router = APIRouter(tags=["similarity"], route_class=PlainRoute)


@router.post(
    "/similar",
    openapi_extra=SimilarRequest.openapi(),
    responses={**ERRORS, **ABOUT_COLLECTIONS, 200: {"model": SimilarResponse}},
)
async def similar(request: Request) -> Response:
    """Returns the candidates, or items of a collection, most similar to each query first.

    A query or candidate that cannot be embedded matches nothing and has an entry in `errors`.
    """
    caller, state = Caller(request), get_state(request)
    body = await SimilarRequest.read(request)
    if body.collection is not None:
        return await search(caller, state, body)
    assert body.query is not None and body.candidates is not None  # the schema guarantees it
    state.accept_texts(len(body.query) + len(body.candidates))
    check_dimensions(state.embedder.model, body.dimensions)
    work = rank(
        state.embedder,
        body.query,
        body.candidates,
        top_k=body.top_k,
        min_score=body.min_score,
        dimensions=body.dimensions,
    )
    ranking = await caller.wait(work)
    found = [[(body.candidates[match.index], match.score) for match in matches] for matches in ranking.matches]
    relations = await caller.wait(relate(state, body.query, found))
    labels = await caller.wait(label_matches(state, body.heads, found))
    results = [
        {
            "query": query,
            "matches": [
                {
                    "id": str(match.index),
                    "text": body.candidates[match.index],
                    "score": match.score,
                    "relation": relation,
                    "metadata": {},
                    **labels.get(body.candidates[match.index], {}),
                }
                for match, relation in zip(matches, related, strict=True)
            ],
        }
        for query, matches, related in zip(body.query, ranking.matches, relations, strict=True)
    ]
    errors = [
        {"field": field, "index": error.index, "error": error.error, "error_type": error.error_type}
        for field, found in (("query", ranking.query_errors), ("candidates", ranking.candidate_errors))
        for error in found
    ]
    model = ranking.model
    return json_response({"model": model.name, "fingerprint": model.fingerprint, "results": results, "errors": errors})
