"""Finds the texts most like a given one: cosine similarity over vectors from the embedder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.embedder import Embedder
from service.encoders.model import Model
from service.errors import TextError, TooLarge

MAX_ANSWER_BYTES = 32 * 2**20
MATCH_BYTES = 80  # of JSON around a match's text


@dataclass(frozen=True)
class Match:
    index: int  # of the candidate
    score: float  # cosine, −1 to 1


@dataclass(frozen=True)
class Ranking:
    """What became of queries and candidates."""

    model: Model
    matches: list[list[Match]]  # of each query, best first
    query_errors: list[TextError]
    candidate_errors: list[TextError]


async def rank(
    embedder: Embedder, queries: Sequence[str], candidates: Sequence[str], *, top_k: int | None, min_score: float | None
) -> Ranking:
    """The candidates in order of likeness to each query; ties keep the order of the candidates.

    A query or candidate that cannot be embedded matches nothing and is named in the errors.
    Raises TooLarge, before any work, if the answer could be larger than MAX_ANSWER_BYTES.
    """
    _check_size(queries, candidates, top_k)
    embeddings = await embedder.embed([*queries, *candidates])
    # In a thread: thousands of queries over thousands of candidates take seconds.
    matches = await asyncio.to_thread(_rank, embeddings.vectors, len(queries), top_k, min_score)
    query_errors = [error for error in embeddings.errors if error.index < len(queries)]
    candidate_errors = [
        TextError(error.index - len(queries), error.error, error.error_type)
        for error in embeddings.errors
        if error.index >= len(queries)
    ]
    return Ranking(embeddings.model, matches, query_errors, candidate_errors)


def _check_size(queries: Sequence[str], candidates: Sequence[str], top_k: int | None) -> None:
    """Every query may bring every candidate's text back, so a small request can ask for an answer without end."""
    sizes = [len(text.encode()) + MATCH_BYTES for text in candidates]
    most = len(queries) * min(sum(sizes), (top_k or len(sizes)) * max(sizes, default=0))
    if most > MAX_ANSWER_BYTES:
        raise TooLarge(
            f"the answer could have {most // 2**20} MiB, for {len(queries)} queries over {len(candidates)} candidates; "
            f"at most {MAX_ANSWER_BYTES // 2**20} are given, so lower top_k or ask in parts"
        )


def _rank(vectors: np.ndarray, queries: int, top_k: int | None, min_score: float | None) -> list[list[Match]]:
    """Of rows [queries + candidates, dim], the first being the queries."""
    vectors = unit(vectors)
    scores = np.clip(vectors[:queries] @ vectors[queries:].T, -1, 1)  # [queries, candidates]; NaN: one has no vector
    return [best(row, top_k=top_k, min_score=min_score) for row in scores]


def best(scores: np.ndarray, *, top_k: int | None, min_score: float | None) -> list[Match]:
    """The best of a row of scores [n], NaN meaning none, best first."""
    order = np.argsort(-scores, kind="stable")  # NaN comes last
    order = order[~np.isnan(scores[order])]
    if min_score is not None:
        order = order[scores[order] >= min_score]
    return [Match(int(index), float(scores[index])) for index in order[:top_k]]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1: [n, dim] → [n, dim]. A row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), np.float32)
