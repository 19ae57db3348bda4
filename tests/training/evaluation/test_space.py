"""Hubs and strangers of spaces that are known to have them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse

from training.evaluation.models import normalize_rows
from training.evaluation.space import compare_all, compare_rows, judge_strangers, measure_hubs


def test_cosines_of_sparse_vectors_are_those_of_dense_ones() -> None:
    vectors = normalize_rows(np.random.default_rng(1).standard_normal((6, 5)) * (np.arange(5) < 3))
    first, second = np.array([[0], [1]]), np.array([[2, 3], [4, 5]])
    dense = compare_rows(vectors, first, second)
    np.testing.assert_allclose(dense, compare_rows(sparse.csr_matrix(vectors), first, second), atol=1e-6)
    np.testing.assert_allclose(dense[1, 1], vectors[1] @ vectors[5], atol=1e-6)
    np.testing.assert_allclose(compare_all(vectors), compare_all(sparse.csr_matrix(vectors)), atol=1e-6)


def test_ten_hubs_fill_the_lists_that_lack_nothing_else() -> None:
    """Ten rows between all others, which stand at right angles, are the nearest of each."""
    others = np.eye(200)
    hubs = normalize_rows(1 + 0.01 * np.random.default_rng(1).standard_normal((10, 200)))
    crowded = measure_hubs(np.concatenate([others, hubs]))
    assert crowded.value > 0.95
    assert crowded.low <= crowded.value <= crowded.high


def test_where_nothing_is_known_hubs_are_chance() -> None:
    """Rows of 0 are equally near to all: no row may come first for the number that it has."""
    assert measure_hubs(np.zeros((500, 4), np.float32)).value == pytest.approx(10 / 500, abs=0.03)


def test_the_nearest_of_a_row_do_not_hold_the_row_itself() -> None:
    """Eleven alike, in pairs of directions: each list is the ten others."""
    assert measure_hubs(np.eye(11, dtype=np.float32) + 1).value == pytest.approx(1 - 1 / 11)


def test_strangers_have_a_mean_and_a_spread() -> None:
    found = judge_strangers(np.linspace(0, 1, 101))
    assert found.mean.value == pytest.approx(0.5) and found.percentile_95 == pytest.approx(0.95)
    assert found.standard_deviation == pytest.approx(np.linspace(0, 1, 101).std())
