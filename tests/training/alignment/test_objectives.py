"""Each term of the loss, computed for given vectors."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.alignment.objectives import contrast, crowding, relations, spelling

DIMS, TEMPERATURE = (16, 32), 0.1


def _vectors(seed: int, rows: int, dim: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def test_contrast_is_infonce_of_each_prefix_over_negatives() -> None:
    """numpy computes it again; a row without a positive does not count."""
    ours, theirs = _vectors(5, 4), _vectors(6, 4)
    wrong = np.random.default_rng(5).random((4, 4)) < 0.6
    right = np.zeros((4, 4), bool)
    right[0, [1, 2]] = right[1, 0] = True
    wrong &= ~right
    expected = []
    for dim in DIMS:
        a, b = (v[:, :dim] / np.linalg.norm(v[:, :dim], axis=1, keepdims=True) for v in (ours, theirs))
        scores = np.exp(a @ b.T / TEMPERATURE)
        against = (scores * wrong).sum(1, keepdims=True)
        losses = -np.log(scores / (scores + against))
        expected.append(np.mean([losses[row, right[row]].mean() for row in range(4) if right[row].any()]))
    loss, _ = contrast(*map(tf.constant, (ours, theirs, right, wrong)), dims=DIMS, temperature=TEMPERATURE)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-4)


def _spelling(
    texts: np.ndarray, variants: np.ndarray, opposites: np.ndarray, margin: float = 0.3
) -> tuple[float, float]:
    count = len(texts)
    loss, share = spelling(
        *map(tf.constant, (texts, variants, opposites)),
        tf.constant([True] * count),
        tf.eye(count, dtype=tf.bool),
        temperature=0.05,
        margin=margin,
    )
    return float(loss), float(share)


def test_the_spelling_term_wants_the_variant_closer_than_the_opposite() -> None:
    texts, others = _vectors(1, 6), _vectors(2, 6)
    good, nearer = _spelling(texts, texts, others)
    bad, never = _spelling(texts, others, texts)
    assert good < 0.1 < bad
    assert (nearer, never) == (1.0, 0.0)


def test_the_spelling_term_has_a_margin() -> None:
    """An opposite that is slightly farther than the variant still adds to the loss."""
    texts = np.eye(4, 32, dtype=np.float32)
    opposites = texts + 0.5 * np.eye(4, 32, k=8, dtype=np.float32)  # cosine 0.89
    assert _spelling(texts, texts, opposites, margin=0.0)[0] < _spelling(texts, texts, opposites, margin=0.3)[0] - 2


def test_a_text_without_an_opposite_is_compared_with_other_texts_only() -> None:
    texts = np.eye(4, 32, dtype=np.float32)
    loss, share = spelling(
        *map(tf.constant, (texts, texts, texts)),
        tf.constant([False] * 4),
        tf.eye(4, dtype=tf.bool),
        temperature=0.05,
        margin=0.3,
    )
    assert float(loss) == pytest.approx(0.0, abs=1e-5)
    assert float(share) == 0.0


def test_the_relation_term_is_zero_for_the_teachers_geometry_in_any_coordinates() -> None:
    """The vectors are rotated and scaled and have the same cosines."""
    taught = _vectors(3, 10)
    taught /= np.linalg.norm(taught, axis=1, keepdims=True)
    turn = np.linalg.qr(_vectors(4, 32))[0]
    divergence, error = relations(tf.constant(7 * taught @ turn), tf.constant(taught), temperature=0.05)
    assert float(divergence) == pytest.approx(0.0, abs=1e-4)
    assert float(error) == pytest.approx(0.0, abs=1e-5)
    divergence, error = relations(tf.constant(_vectors(9, 10)), tf.constant(taught), temperature=0.05)
    assert float(divergence) > 0.5 and float(error) > 0.01


def test_crowding_grows_with_the_similarity_of_strangers() -> None:
    spread = _vectors(8, 64)
    strangers = tf.constant(~np.eye(64, dtype=bool))
    even, low = crowding(tf.constant(spread), strangers)
    crowded, high = crowding(tf.constant(spread + 2.0), strangers)
    assert float(even) < -3 < float(crowded)
    assert abs(float(low)) < 0.05 and float(high) > 0.7
