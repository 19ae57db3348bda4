"""The optimizer is BERT's, down to the details in which it differs from the textbook."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.optimizer import AdamW, decays, learning_rate

NAMES = ["dense/kernel", "dense/bias", "output/LayerNorm/gamma", "output/LayerNorm/beta", "cls/output_bias"]


def test_two_steps_are_what_numpy_computes() -> None:
    """No bias correction, epsilon outside the root, decay in the update, none for LayerNorm and biases."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(4) for name in NAMES}
    variables = {name: tf.Variable(value, dtype=tf.float32) for name, value in values.items()}
    optimizer = AdamW(variables, weight_decay_rate=0.5)
    m, v = ({name: np.zeros(4) for name in NAMES} for _ in range(2))
    for rate in (0.1, 0.02):
        gradients = {name: 0.05 * rng.standard_normal(4) for name in NAMES}  # their norm is below 1: not clipped
        norm = optimizer.apply(
            {name: tf.constant(gradient, tf.float32) for name, gradient in gradients.items()},
            tf.constant(rate),
        )
        assert float(norm) == pytest.approx(np.sqrt(sum((g**2).sum() for g in gradients.values())), rel=1e-5)
        for name in NAMES:
            m[name] = 0.9 * m[name] + 0.1 * gradients[name]
            v[name] = 0.999 * v[name] + 0.001 * gradients[name] ** 2
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if name == "dense/kernel":
                update += 0.5 * values[name]
            values[name] = values[name] - rate * update
            np.testing.assert_allclose(variables[name].numpy(), values[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_to_a_global_norm_of_one() -> None:
    """All by the same factor; the norm that is returned is the one before."""
    variables = {name: tf.Variable([0.0]) for name in ("a", "b")}
    optimizer = AdamW(variables, weight_decay_rate=0.0)
    norm = optimizer.apply({"a": tf.constant([30.0]), "b": tf.constant([40.0])}, tf.constant(0.0))
    assert float(norm) == pytest.approx(50.0)
    assert float(optimizer.m["a"][0]) == pytest.approx(0.1 * 0.6, rel=1e-5)
    assert float(optimizer.m["b"][0]) == pytest.approx(0.1 * 0.8, rel=1e-5)


@pytest.mark.parametrize(("name", "expected"), list(zip(NAMES, [True] + 4 * [False], strict=True)))
def test_only_weights_decay(name: str, expected: bool) -> None:
    """As exclude_from_weight_decay of google-research/bert has it."""
    assert decays(name) is expected


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (5, 1.0), (10, 1.8), (50, 1.0), (100, 0.0), (120, 0.0)])
def test_the_rate_rises_and_falls_linearly(step: int, expected: float) -> None:
    """The decay counts from step 0, so the peak is met by the decaying line, as in BERT's code."""
    rate = learning_rate(tf.constant(step), peak=2.0, num_warmup_steps=10, num_train_steps=100)
    assert float(rate) == pytest.approx(expected, abs=1e-6)


def test_there_may_be_no_warm_up() -> None:
    """The first step then has the full rate."""
    rate = learning_rate(tf.constant(0), peak=2.0, num_warmup_steps=0, num_train_steps=100)
    assert float(rate) == pytest.approx(2.0)
