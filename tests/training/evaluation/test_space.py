"""Hubs and crowding in vector spaces where both are known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse

from service.vectors import unit
from training.evaluation.space import compare_all, compare_rows, judge_strangers, measure_hubs


def test_cosines_of_sparse_vectors_are_those_of_dense_ones() -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((6, 5)) * (np.arange(5) < 3))
    first, second = np.array([[0], [1]]), np.array([[2, 3], [4, 5]])
    dense = compare_rows(vectors, first, second)
    np.testing.assert_allclose(dense, compare_rows(sparse.csr_matrix(vectors), first, second), atol=1e-6)
    np.testing.assert_allclose(dense[1, 1], vectors[1] @ vectors[5], atol=1e-6)
    np.testing.assert_allclose(compare_all(vectors), compare_all(sparse.csr_matrix(vectors)), atol=1e-6)


def test_ten_hubs_fill_all_lists() -> None:
    """Ten rows between all others, which are orthogonal, are the nearest of each."""
    others = np.eye(200)
    hubs = unit(1 + 0.01 * np.random.default_rng(1).standard_normal((10, 200)))
    crowded = measure_hubs(np.concatenate([others, hubs]))
    assert crowded.value > 0.95
    assert crowded.low <= crowded.value <= crowded.high


def test_rows_of_zero_have_no_hubs() -> None:
    """They are equally close to all, so no row may come first because of its number."""
    assert measure_hubs(np.zeros((500, 4), np.float32)).value == pytest.approx(10 / 500, abs=0.03)


def test_a_row_is_not_its_own_neighbour() -> None:
    """Of eleven equal rows, each list contains the ten others."""
    assert measure_hubs(np.eye(11, dtype=np.float32) + 1).value == pytest.approx(1 - 1 / 11)


def test_strangers_have_a_mean_and_a_spread() -> None:
    found = judge_strangers(np.linspace(0, 1, 101))
    assert found.mean.value == pytest.approx(0.5) and found.percentile_95 == pytest.approx(0.95)
    assert found.standard_deviation == pytest.approx(np.linspace(0, 1, 101).std())
