"""Ranks candidates by the cosine similarity of their vectors to those of queries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.embedder import Embedder
from service.encoders.model import Model
from service.errors import TextError, TooLarge
from service.vectors import unit

MAX_ANSWER_BYTES = 32 * 2**20
MATCH_BYTES = 80  # JSON around the text of a match


@dataclass(frozen=True)
class RankedCandidate:
    index: int  # in the list of candidates
    score: float  # cosine, −1 to 1


@dataclass(frozen=True)
class Ranking:
    """The result of ranking candidates for queries."""

    model: Model
    matches: list[list[RankedCandidate]]  # for each query, best first
    query_errors: list[TextError]
    candidate_errors: list[TextError]


async def rank(
    embedder: Embedder,
    queries: Sequence[str],
    candidates: Sequence[str],
    *,
    top_k: int | None,
    min_score: float | None,
    dimensions: int | None = None,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
) -> Ranking:
    """Returns the candidates most similar to each query first; ties keep the order of the candidates.

    A query or candidate that cannot be embedded matches nothing and appears in the errors. `dimensions` compares only
    the first numbers of each vector.
    Raises TooLarge, before any work, if the answer could be larger than `max_answer_bytes`.
    """
    _check_size(queries, candidates, top_k, max_answer_bytes)
    embeddings = await embedder.embed([*queries, *candidates])
    # In a thread: thousands of queries over thousands of candidates take seconds.
    matches = await asyncio.to_thread(_rank, embeddings.vectors[:, :dimensions], len(queries), top_k, min_score)
    query_errors = [error for error in embeddings.errors if error.index < len(queries)]
    candidate_errors = [
        TextError(error.index - len(queries), error.error, error.error_type)
        for error in embeddings.errors
        if error.index >= len(queries)
    ]
    return Ranking(embeddings.model, matches, query_errors, candidate_errors)


def _check_size(queries: Sequence[str], candidates: Sequence[str], top_k: int | None, max_bytes: int) -> None:
    """Refuses a small request for a huge answer: every query may return the text of every candidate."""
    sizes = [len(text.encode()) + MATCH_BYTES for text in candidates]
    most = len(queries) * min(sum(sizes), (top_k or len(sizes)) * max(sizes, default=0))
    if most > max_bytes:
        raise TooLarge(
            f"response too large: {len(queries)} queries over {len(candidates)} candidates may take "
            f"{most // 2**20} MiB; expected at most {max_bytes // 2**20}, so lower top_k or send fewer texts"
        )


def _rank(vectors: np.ndarray, queries: int, top_k: int | None, min_score: float | None) -> list[list[RankedCandidate]]:
    """Ranks rows [queries + candidates, dim], queries first."""
    vectors = unit(vectors)
    scores = np.clip(vectors[:queries] @ vectors[queries:].T, -1, 1)  # [queries, candidates]; NaN: no vector
    return [rank_scores(row, top_k=top_k, min_score=min_score) for row in scores]


def rank_scores(scores: np.ndarray, *, top_k: int | None, min_score: float | None) -> list[RankedCandidate]:
    """Returns the best of a row of scores [n], best first, without those that are NaN."""
    order = np.argsort(-scores, kind="stable")  # NaN comes last
    order = order[~np.isnan(scores[order])]
    if min_score is not None:
        order = order[scores[order] >= min_score]
    return [RankedCandidate(int(index), float(scores[index])) for index in order[:top_k]]
