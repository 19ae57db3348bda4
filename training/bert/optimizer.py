"""Optimizers as pure functions: (weights, moments, gradients) → the next weights and moments.

`adamw` is Adam as google-research/bert uses it. It differs from the textbook (and from `tf.keras`): no bias correction,
epsilon 1e-6, decay of everything but biases and LayerNorm, gradients clipped to a global norm of 1. The published
recipes depend on these details. `lamb` is for batches of tens of thousands, where one rate does not suit all layers.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

Tensors = dict[str, tf.Tensor]

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-6
MAX_GRADIENT_NORM = 1.0


class Moments(NamedTuple):
    """Running means of the gradients and of their squares, keyed like the weights."""

    m: Tensors
    v: Tensors


def learning_rate(step: tf.Tensor, peak: float, num_warmup_steps: int, num_train_steps: int) -> tf.Tensor:
    """Rises linearly to `peak` over the warm-up, then falls linearly to 0 at `num_train_steps`."""
    step = tf.cast(step, tf.float32)
    warm = step / max(1, num_warmup_steps)
    decayed = 1.0 - step / num_train_steps
    return peak * tf.where(step < num_warmup_steps, warm, tf.maximum(decayed, 0.0))


def clip(gradients: Tensors) -> tuple[Tensors, tf.Tensor]:
    """Scales all gradients by one factor to a global norm of at most 1; returns them and the norm before."""
    clipped, norm = tf.clip_by_global_norm(list(gradients.values()), MAX_GRADIENT_NORM)
    return dict(zip(gradients, clipped, strict=True)), norm


def adamw(
    params: Tensors, moments: Moments, gradients: Tensors, rate: tf.Tensor, step: tf.Tensor, weight_decay_rate: float
) -> tuple[Tensors, Moments]:
    """Updates as google-research/bert, optimization.py, does. Ignores the step."""
    return _adamw(params, moments, gradients, rate, 1.0, weight_decay_rate)


def corrected_adamw(
    params: Tensors, moments: Moments, gradients: Tensors, rate: tf.Tensor, step: tf.Tensor, weight_decay_rate: float
) -> tuple[Tensors, Moments]:
    """Updates as `adamw` with the bias correction of the textbook, for which `step` counts from 0.

    Without it, the first hundred updates are three to six times as large as later ones. A long warm-up hides that, and
    a run of a few hundred steps diverges (T. Zhang et al., arXiv 2006.05987).
    """
    count = tf.cast(step + 1, tf.float32)
    correction = tf.sqrt(1.0 - BETA_2**count) / (1.0 - BETA_1**count)
    return _adamw(params, moments, gradients, rate, correction, weight_decay_rate)


def lamb(
    params: Tensors, moments: Moments, gradients: Tensors, rate: tf.Tensor, step: tf.Tensor, weight_decay_rate: float
) -> tuple[Tensors, Moments]:
    """Updates by algorithm 2 of arXiv 1904.00962: Adam's update of a variable, scaled to the variable's norm.

    Includes bias correction, for which `step` counts from 0. Variables that do not decay are not scaled either, as in
    the authors' code.
    """
    moments = _update_moments(moments, gradients)
    count = tf.cast(step + 1, tf.float32)
    correction_m, correction_v = 1.0 - BETA_1**count, 1.0 - BETA_2**count
    new = {}
    for name, value in params.items():
        update = moments.m[name] / correction_m / (tf.sqrt(moments.v[name] / correction_v) + EPSILON)
        if decays(name):
            update += weight_decay_rate * value
            norm, update_norm = tf.norm(value), tf.norm(update)
            # A variable of zeros has no norm to scale to.
            has_norms = tf.logical_and(norm > 0.0, update_norm > 0.0)
            update *= tf.where(has_norms, tf.math.divide_no_nan(norm, update_norm), 1.0)
        new[name] = value - rate * update
    return new, moments


OPTIMIZERS = {"adamw": adamw, "corrected_adamw": corrected_adamw, "lamb": lamb}


def decays(name: str) -> bool:
    """Whether weight decay applies to the variable of this name."""
    return "LayerNorm" not in name and not name.endswith("bias")


def _adamw(
    params: Tensors,
    moments: Moments,
    gradients: Tensors,
    rate: tf.Tensor,
    correction: tf.Tensor | float,
    weight_decay_rate: float,
) -> tuple[Tensors, Moments]:
    moments = _update_moments(moments, gradients)
    new = {}
    for name, value in params.items():
        update = correction * moments.m[name] / (tf.sqrt(moments.v[name]) + EPSILON)
        if decays(name):
            update += weight_decay_rate * value
        new[name] = value - rate * update
    return new, moments


def _update_moments(moments: Moments, gradients: Tensors) -> Moments:
    m = {name: BETA_1 * moments.m[name] + (1 - BETA_1) * gradient for name, gradient in gradients.items()}
    v = {name: BETA_2 * moments.v[name] + (1 - BETA_2) * gradient * gradient for name, gradient in gradients.items()}
    return Moments(m, v)
