"""POST /similar with a collection: by texts, by an item or by a vector."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from service.api.responses import json_response
from service.api.schemas import SimilarRequest
from service.api.state import Caller, State
from service.collections.collections import check_name
from service.errors import TooLarge
from service.stores.base import Match
from service.stores.filters import parse

TOP_K = 10
MOST_IN_ALL = 100_000  # matches of an answer, some 20 MB
MOST_WITH_VECTORS = 5_000


async def search(caller: Caller, state: State, body: SimilarRequest) -> Response:
    """Raises what `Collections` does, TooLarge for more than an answer can hold."""
    name = check_name(body.collection or "")
    top_k = body.top_k or TOP_K
    queries: list[str] | list[None] = [None] if body.query is None else body.query
    state.accept_texts(len(body.query or ()))
    most = MOST_WITH_VECTORS if body.with_vectors else MOST_IN_ALL
    if len(queries) * top_k > most:
        raise TooLarge(
            f"{len(queries)} queries with up to {top_k} matches each; at most {most} matches are given, so lower top_k "
            "or ask in parts"
        )
    filter = None if body.filter is None else parse(body.filter)
    options: dict[str, Any] = {"top_k": top_k, "min_score": body.min_score, "filter": filter}
    options["with_vectors"] = body.with_vectors
    collections = state.collections
    if body.id is not None:
        work = collections.search_id(name, body.id, **options)
    elif body.vector is not None:
        work = collections.search_vector(name, body.vector, **options)
    else:
        work = collections.search_texts(name, body.query or [], **options)
    found = await caller.wait(work)
    results = [
        ({} if query is None else {"query": query}) | {"matches": [_shown(match) for match in matches]}
        for query, matches in zip(queries, found.matches, strict=True)
    ]
    errors = [
        {"field": "query", "index": error.index, "error": error.error, "error_type": error.error_type}
        for error in found.errors
    ]
    model = found.model
    return json_response({"model": model.name, "fingerprint": model.fingerprint, "results": results, "errors": errors})


def _shown(match: Match) -> dict[str, object]:
    item = match.item
    shown = {"id": item.id, "text": item.text, "score": match.score, "metadata": item.metadata, "count": item.count}
    return shown if item.vector is None else shown | {"vector": item.vector}
