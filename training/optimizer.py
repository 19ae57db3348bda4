"""Adam with decoupled weight decay as google-research/bert uses it, and its learning-rate schedule.

It differs from the textbook (and from `tf.keras`): no bias correction, epsilon 1e-6, decay of everything but
biases and LayerNorm, gradients clipped to a global norm of 1. The published recipes depend on these details.
"""

from __future__ import annotations

import tensorflow as tf

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-6
MAX_GRADIENT_NORM = 1.0


def learning_rate(step: tf.Tensor, peak: float, num_warmup_steps: int, num_train_steps: int) -> tf.Tensor:
    """Rises linearly to `peak` over the warm-up, then falls linearly to 0 at `num_train_steps`."""
    step = tf.cast(step, tf.float32)
    warm = step / max(1, num_warmup_steps)
    decayed = 1.0 - step / num_train_steps
    return peak * tf.where(step < num_warmup_steps, warm, tf.maximum(decayed, 0.0))


class AdamW:
    """Moments `m` and `v` are keyed by the variables' names, for the training state to be saved."""

    def __init__(self, variables: dict[str, tf.Variable], weight_decay_rate: float) -> None:
        self._variables = variables
        self._weight_decay_rate = weight_decay_rate
        self.m = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in variables.items()}
        self.v = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in variables.items()}

    def apply(self, gradients: dict[str, tf.Tensor], rate: tf.Tensor) -> tf.Tensor:
        """Updates every variable in place and returns the gradients' norm before clipping."""
        clipped, norm = tf.clip_by_global_norm(list(gradients.values()), MAX_GRADIENT_NORM)
        for name, gradient in zip(gradients, clipped, strict=True):
            variable = self._variables[name]
            m = self.m[name].assign(BETA_1 * self.m[name] + (1 - BETA_1) * gradient)
            v = self.v[name].assign(BETA_2 * self.v[name] + (1 - BETA_2) * gradient * gradient)
            update = m / (tf.sqrt(v) + EPSILON)
            if decays(name):
                update += self._weight_decay_rate * variable
            variable.assign_sub(rate * update)
        return norm


def decays(name: str) -> bool:
    """Whether weight decay touches the variable of this name."""
    return "LayerNorm" not in name and not name.endswith("bias")
