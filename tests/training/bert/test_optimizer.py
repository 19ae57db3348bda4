"""The optimizer is BERT's, down to the details in which it differs from the textbook."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.bert.optimizer import OPTIMIZERS, Moments, clip, decays, lamb, learning_rate

NAMES = ["dense/kernel", "dense/bias", "output/LayerNorm/gamma", "output/LayerNorm/beta", "cls/output_bias"]


def zeros(values: dict[str, tf.Tensor]) -> Moments:
    return Moments(*({name: tf.zeros_like(value) for name, value in values.items()} for _ in range(2)))


@pytest.mark.parametrize("is_corrected", [False, True])
def test_two_steps_equal_numpys(is_corrected: bool) -> None:
    """Bias is corrected only if asked for; epsilon is outside the root; decay is in the update, except for LayerNorm
    and biases.
    """
    optimizer = OPTIMIZERS["corrected_adamw" if is_corrected else "adamw"]
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(4) for name in NAMES}
    params = {name: tf.constant(value, tf.float32) for name, value in values.items()}
    moments = zeros(params)
    m, v = ({name: np.zeros(4) for name in NAMES} for _ in range(2))
    for step, rate in enumerate((0.1, 0.02)):
        gradients = {name: 0.05 * rng.standard_normal(4) for name in NAMES}
        tensors = {name: tf.constant(gradient, tf.float32) for name, gradient in gradients.items()}
        params, moments = optimizer(params, moments, tensors, tf.constant(rate), tf.constant(step), 0.5)
        for name in NAMES:
            m[name] = 0.9 * m[name] + 0.1 * gradients[name]
            v[name] = 0.999 * v[name] + 0.001 * gradients[name] ** 2
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if is_corrected:
                update *= np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            if name == "dense/kernel":
                update += 0.5 * values[name]
            values[name] = values[name] - rate * update
            np.testing.assert_allclose(params[name].numpy(), values[name], rtol=1e-4, atol=1e-6)


def test_two_steps_of_lamb_equal_numpys() -> None:
    """Algorithm 2 of arXiv 1904.00962 has bias correction, and an update as long as the weights."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(4) for name in NAMES}
    params = {name: tf.constant(value, tf.float32) for name, value in values.items()}
    moments = zeros(params)
    m, v = ({name: np.zeros(4) for name in NAMES} for _ in range(2))
    for step, rate in enumerate((0.1, 0.02)):
        gradients = {name: 0.05 * rng.standard_normal(4) for name in NAMES}
        tensors = {name: tf.constant(gradient, tf.float32) for name, gradient in gradients.items()}
        params, moments = lamb(params, moments, tensors, tf.constant(rate), tf.constant(step), 0.5)
        for name in NAMES:
            m[name] = 0.9 * m[name] + 0.1 * gradients[name]
            v[name] = 0.999 * v[name] + 0.001 * gradients[name] ** 2
            corrected_m, corrected_v = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            update = corrected_m / (np.sqrt(corrected_v) + 1e-6)
            if name == "dense/kernel":
                update += 0.5 * values[name]
                update *= np.linalg.norm(values[name]) / np.linalg.norm(update)
            values[name] = values[name] - rate * update
            np.testing.assert_allclose(params[name].numpy(), values[name], rtol=1e-3, atol=1e-5)


def test_lamb_moves_weights_that_are_all_zero() -> None:
    """They have no norm to scale an update to."""
    params = {"dense/kernel": tf.zeros([3])}
    gradients = {"dense/kernel": tf.constant([1.0, -1.0, 0.5])}
    moved, _ = lamb(params, zeros(params), gradients, tf.constant(0.1), tf.constant(0), 0.01)
    np.testing.assert_allclose(moved["dense/kernel"].numpy(), [-0.1, 0.1, -0.1], rtol=1e-4)


def test_gradients_are_clipped_to_a_global_norm_of_one() -> None:
    """All are scaled by the same factor; the returned norm is the one before."""
    clipped, norm = clip({"a": tf.constant([30.0]), "b": tf.constant([40.0])})
    assert float(norm) == pytest.approx(50.0)
    assert float(clipped["a"][0]) == pytest.approx(0.6, rel=1e-5)
    assert float(clipped["b"][0]) == pytest.approx(0.8, rel=1e-5)


def test_small_gradients_are_left_alone() -> None:
    clipped, norm = clip({"a": tf.constant([0.3]), "b": tf.constant([0.4])})
    assert (float(norm), float(clipped["a"][0])) == pytest.approx((0.5, 0.3))


@pytest.mark.parametrize(("name", "expected"), list(zip(NAMES, [True] + 4 * [False], strict=True)))
def test_only_weights_decay(name: str, expected: bool) -> None:
    """This is exclude_from_weight_decay of google-research/bert."""
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
