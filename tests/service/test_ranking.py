"""Ranking by cosine."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import RecordingEncoder

from service.cache.memory import MemoryCache
from service.embedder import Embedder
from service.errors import TooLarge
from service.metrics import Metrics
from service.ranking import rank, rank_scores
from service.vectors import unit


def test_the_best_come_first() -> None:
    scores = np.array([0.1, 0.9, -0.5, 0.4], np.float32)

    assert [match.index for match in rank_scores(scores, top_k=None, min_score=None)] == [1, 3, 0, 2]


def test_ties_keep_the_order_of_the_candidates() -> None:
    scores = np.array([0.5, 0.7, 0.5, 0.7], np.float32)

    assert [match.index for match in rank_scores(scores, top_k=None, min_score=None)] == [1, 3, 0, 2]


def test_candidates_without_a_score_are_left_out() -> None:
    scores = np.array([math.nan, 0.2, math.nan, 0.3], np.float32)

    assert [match.index for match in rank_scores(scores, top_k=None, min_score=None)] == [3, 1]


@pytest.mark.parametrize(
    ("top_k", "min_score", "expected"), [(2, None, [1, 3]), (None, 0.4, [1, 3]), (1, 0.1, [1]), (None, 0.95, [])]
)
def test_top_k_and_min_score_cut_the_list(top_k: int | None, min_score: float | None, expected: list[int]) -> None:
    scores = np.array([0.1, 0.9, -0.5, 0.4], np.float32)

    assert [match.index for match in rank_scores(scores, top_k=top_k, min_score=min_score)] == expected


def test_unit_rows_have_length_one() -> None:
    """A row of zeros has no direction and stays zero."""
    vectors = unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))

    assert vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


async def test_a_possibly_huge_response_is_refused(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    """All pairs of queries and candidates may not fit in memory; with `top_k` they do."""
    queries, candidates = ["草"] * 6, ["草" * 10, "awsl" * 7, "晚安"] * 3
    async with Embedder(recording_encoder, MemoryCache(0, metrics), metrics) as embedder:
        with pytest.raises(TooLarge, match=r"6 queries over 9 candidates.*top_k"):
            await rank(embedder, queries, candidates, top_k=None, min_score=None, max_answer_bytes=5000)
        assert recording_encoder.calls == []
        ranking = await rank(embedder, queries, candidates, top_k=7, min_score=None, max_answer_bytes=5000)

    assert [len(matches) for matches in ranking.matches] == [7] * 6
