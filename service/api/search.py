"""POST /similar with a collection: searches by texts, by an item or by a vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from fastapi import Response

from service.accounts import current_account
from service.api.classify import label_texts
from service.api.http.caller import Caller
from service.api.http.pieces import NUMBER_BYTES, json_list
from service.api.http.responses import json_response
from service.api.http.schemas import SimilarRequest
from service.api.http.state import State
from service.chat.sameness import Relation
from service.collections.collections import check_name
from service.errors import TooLarge
from service.memory import SMALL_BYTES, hold_bytes
from service.stores.base import Match
from service.stores.filters import parse
from service.tasks import run_in_thread_if

TOP_K = 10
MATCH_BYTES = 400  # of JSON for a match without a vector, about
MATCHES_PER_PIECE = 200
MAX_MATCHES = 100_000  # in one answer, about 20 MB
MAX_MATCHES_WITH_VECTORS = 5_000
MAX_RELATIONS = 10_000  # in one answer: about half a second of processor time
FEW_RELATIONS = 20  # that are judged without a thread


async def search(caller: Caller, state: State, body: SimilarRequest) -> Response:
    """Answers a search. Raises TooLarge if the answer could be too large, and what `Collections` raises."""
    name = check_name(body.collection or "")
    top_k = body.top_k or TOP_K
    queries: list[str] | list[None] = [None] if body.query is None else body.query
    if account := current_account.get():
        account.check_collection(name)
    state.accept_texts(len(body.query or ()))
    limit = MAX_MATCHES_WITH_VECTORS if body.with_vectors else MAX_MATCHES
    if len(queries) * top_k > limit:
        raise TooLarge(
            f"too many matches: {len(queries)} queries with up to {top_k} matches each; expected at most {limit}; "
            "lower top_k or send fewer queries"
        )
    options: dict[str, Any] = {
        "top_k": top_k,
        "min_score": body.min_score,
        "filter": None if body.filter is None else parse(body.filter),
        "with_vectors": body.with_vectors,
    }
    collections = state.collections
    if body.id is not None:
        work = collections.search_id(name, body.id, **options)
    elif body.vector is not None:
        work = collections.search_vector(name, body.vector, **options)
    else:
        work = collections.search_texts(name, body.query or [], **options)
    found = await caller.wait(work)
    counts = sum(map(len, found.matches))
    if counts * (MATCH_BYTES + (NUMBER_BYTES * found.model.dim if body.with_vectors else 0)) > SMALL_BYTES:
        hold_bytes(counts * (MATCH_BYTES + (4 * found.model.dim if body.with_vectors else 0)))
    asked: list[str] | list[None] = queries
    if body.id is not None:
        asked = [(await caller.wait(collections.get(name, body.id))).text]
    pairs = [[(match.item.text, match.score) for match in matches] for matches in found.matches]
    relations = await caller.wait(relate(state, asked, pairs))
    labels = await caller.wait(label_matches(state, body.heads, pairs))
    errors = [
        {"field": "query", "index": error.index, "error": error.error, "error_type": error.error_type}
        for error in found.errors
    ]
    model = found.model

    def make(start: int, stop: int) -> list[object]:
        return [
            ({} if query is None else {"query": query})
            | {
                "matches": [
                    _format_match(match, relation) | labels.get(match.item.text, {})
                    for match, relation in zip(matches, related, strict=True)
                ]
            }
            for query, matches, related in zip(
                queries[start:stop], found.matches[start:stop], relations[start:stop], strict=True
            )
        ]

    before: dict[str, object] = {"model": model.name, "fingerprint": model.fingerprint}
    if counts <= MATCHES_PER_PIECE:
        return json_response({**before, "results": make(0, len(queries)), "errors": errors})
    return json_list(before, "results", len(queries), make, {"errors": errors}, per_piece=1)


async def relate(
    state: State, queries: Sequence[str | None], found: Sequence[Sequence[tuple[str, float]]]
) -> list[list[Relation | None]]:
    """Returns how each query relates to its matches, given as texts and cosines.

    None without the text of the query, and beyond the first MAX_RELATIONS matches of an answer.
    """
    judge, total = state.judge, sum(map(len, found))

    def judge_all() -> list[list[Relation | None]]:
        left = iter(range(MAX_RELATIONS))
        return [
            [
                None if query is None or not any(True for _ in islice(left, 1)) else judge.judge(query, *match).relation
                for match in matches
            ]
            for query, matches in zip(queries, found, strict=True)
        ]

    return await run_in_thread_if(total > FEW_RELATIONS, judge_all)


async def label_matches(
    state: State, heads: Sequence[str] | None, found: Sequence[Sequence[tuple[str, float]]]
) -> dict[str, dict[str, object]]:
    """Returns by text what heads add to matches, given as texts and cosines. Raises TooLarge and as `label_texts`."""
    if heads is None:
        return {}
    texts = list(dict.fromkeys(text for matches in found for text, _ in matches))
    if len(texts) > (limit := state.settings.max_request_texts):
        raise TooLarge(f"too many matches to label: {len(texts)} texts; expected at most {limit}; lower top_k")
    labels = await label_texts(state, heads, texts)
    return {text: {"labels": each} for text, each in zip(texts, labels, strict=True)}


def _format_match(match: Match, relation: Relation | None) -> dict[str, object]:
    item = match.item
    content = {
        "id": item.id,
        "text": item.text,
        "score": match.score,
        "relation": relation,
        "metadata": item.metadata,
        "count": item.count,
    }
    return content if item.vector is None else content | {"vector": item.vector}
