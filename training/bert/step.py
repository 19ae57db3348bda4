"""One training step as a pure function of tensors: no variables, no state, only static shapes.

The same function therefore trains on a CPU, on several GPUs and on the eight cores of a TPU, and can be compiled for a
TPU on a machine without one. The batch is spread over replicas, and a replica's share may be split into micro-batches,
whose gradients are added up. The result depends on neither: losses are sums over the parts divided by the weight of the
batch, gradients are added before they are clipped, and the dropout of a micro-batch follows from its number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from service.model_directory import BertConfig
from training.bert import model
from training.bert.losses import Features, Pretraining, Task
from training.bert.optimizer import OPTIMIZERS, Moments, Tensors, clip, learning_rate
from training.config import TrainConfig

Metrics = dict[str, tf.Tensor]
Step = Callable[[Tensors, Moments, Features, tf.Tensor], tuple[Tensors, Moments, Metrics]]


@dataclass(frozen=True)
class Replicas:
    """The copies of the model that share a batch: their number, the index of this one, and how they add up tensors."""

    count: int = 1
    index: Callable[[], Any] = lambda: 0
    sum: Callable[[list[tf.Tensor]], list[tf.Tensor]] = lambda tensors: tensors


def make_step(
    config: TrainConfig, bert_config: BertConfig, replicas: Replicas | None = None, task: Task | None = None
) -> Step:
    """Returns the step: (weights, moments, a replica's share of the batch, step from 0) → weights, moments, metrics.

    The metrics are those of the task (by default pre-training), `loss` and `gradient_norm`. They cover the whole batch
    and are the same on every replica.
    """
    learned = task or Pretraining(bert_config, config.batch_size, config.frozen_layers)
    replicas = replicas or Replicas()
    parts = config.micro_batches(replicas.count)
    if config.kernel_dtype == "auto":
        raise ValueError('invalid kernel_dtype: "auto"; expected the choice of TrainConfig.on()')
    dtype = tf.as_dtype(config.kernel_dtype)
    update = OPTIMIZERS[config.optimizer]
    names = learned.names

    def compute_gradients(
        params: Tensors, features: Features, seed: tf.Tensor, weight: tf.Tensor
    ) -> tuple[Tensors, Metrics]:
        """Returns what a micro-batch adds to the gradients and the sums of a batch of that weight."""
        trainable = {name: params[name] for name in names}
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            sums = learned.sums(model.with_kernels_as(params, dtype), features, seed)
            loss = learned.means(sums, weight)["loss"]
        gradients = tape.gradient(loss, trainable)
        return {name: tf.convert_to_tensor(gradient) for name, gradient in gradients.items()}, sums

    # Separate functions are traced once, whatever the number of replicas.
    @tf.function(autograph=False)
    def compute_share(
        params: Tensors, features: Features, step: tf.Tensor, first: tf.Tensor, weight: tf.Tensor
    ) -> tuple[Tensors, Metrics]:
        """Returns what a replica, whose micro-batches count from `first`, adds to gradients and sums."""

        def compute_part(number: tf.Tensor) -> tuple[Tensors, Metrics]:
            # Folded in, not added: a micro-batch must not repeat the dropout of another step.
            seed = tf.random.experimental.stateless_fold_in(tf.stack([config.seed, step]), first + number)
            if parts == 1:  # of any length
                return compute_gradients(params, features, seed, weight)
            share = {name: _take_part(values, parts, number) for name, values in features.items()}
            return compute_gradients(params, share, seed, weight)

        if parts == 1:
            return compute_part(tf.constant(0))
        return _add_parts(compute_part, parts, {name: params[name] for name in names}, learned.metrics)

    @tf.function(autograph=False)
    def update_weights(
        params: Tensors, moments: Moments, gradients: Tensors, step: tf.Tensor
    ) -> tuple[Tensors, Moments, tf.Tensor]:
        gradients, norm = clip(gradients)
        # The first update, at step 0, has a rate of 1/num_warmup_steps of the peak: 0 would waste a batch.
        rate = learning_rate(step + 1, config.learning_rate, config.num_warmup_steps, config.num_train_steps)
        trainable = {name: params[name] for name in names}
        new, (m, v) = update(trainable, moments, gradients, rate, step, config.weight_decay_rate)
        return {**params, **new}, Moments({**moments.m, **m}, {**moments.v, **v}), norm

    def step_on_replica(
        params: Tensors, moments: Moments, features: Features, step: tf.Tensor
    ) -> tuple[Tensors, Moments, Metrics]:
        [weight] = replicas.sum([learned.weigh(features)])
        first = tf.convert_to_tensor(replicas.index()) * parts
        gradients, sums = compute_share(params, features, step, first, weight)
        added = replicas.sum([*gradients.values(), *sums.values()])
        gradients = dict(zip(gradients, added[: len(gradients)], strict=True))
        sums = dict(zip(sums, added[len(gradients) :], strict=True))
        params, moments, norm = update_weights(params, moments, gradients, step)
        return params, moments, {"gradient_norm": norm, **learned.means(sums, weight)}

    return step_on_replica


def _take_part(values: tf.Tensor, parts: int, number: Any) -> tf.Tensor:
    """Returns one of the parts of a tensor, split along its first axis: [b, …] → [b / parts, …]."""
    return tf.reshape(values, [parts, values.shape[0] // parts, *values.shape[1:]])[number]


def _add_parts(
    part: Callable[[Any], tuple[Tensors, Metrics]], parts: int, params: Tensors, metrics: Sequence[str]
) -> tuple[Tensors, Metrics]:
    """Computes part(0) + part(1) + …, with the activations of one part at a time in memory."""

    def add(number: tf.Tensor, total: tuple[Tensors, Metrics]) -> tuple[tf.Tensor, tuple[Tensors, Metrics]]:
        return number + 1, tf.nest.map_structure(tf.add, total, part(number))

    nothing = tf.nest.map_structure(tf.zeros_like, params), {name: tf.constant(0.0) for name in metrics}
    _, total = tf.while_loop(lambda number, _: number < parts, add, (tf.constant(0), nothing), parallel_iterations=1)
    return total
