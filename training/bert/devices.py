"""Chooses the devices of a run, the cores of a TPU, all GPUs or the CPU of this machine, and runs its steps on them.

TensorFlow's distribution strategies place the copies of the weights and add up what the copies compute. A TPU is used
from its own machine (a Cloud TPU VM). Training on several machines at once is not supported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from training.bert.loop import Ran, RunSteps, State
from training.bert.step import Replicas, Step


def open_strategy(tpu: str | None = None) -> tf.distribute.Strategy:
    """Opens a TPU by its name (`local` on its own machine), or else all GPUs, or else the CPU.

    Raises ValueError if the TPU cannot be reached.
    """
    if tpu is not None:
        try:
            return tf.distribute.TPUStrategy(tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu))
        except (tf.errors.OpError, ValueError) as error:
            raise ValueError(f"no TPU {tpu!r} found; omit --tpu to train on GPU or CPU: {error}") from None
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def has_fast_bfloat16(strategy: tf.distribute.Strategy) -> bool:
    """Whether bfloat16 is fast: on TPUs and GPUs. On CPUs it depends on the model (benchmarks/train.py)."""
    return isinstance(strategy, tf.distribute.TPUStrategy) or bool(tf.config.list_logical_devices("GPU"))


def make_replicas(strategy: tf.distribute.Strategy) -> Replicas:
    def add(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        added: list[tf.Tensor] = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)
        return added

    return Replicas(
        strategy.num_replicas_in_sync, lambda: tf.distribute.get_replica_context().replica_id_in_sync_group, add
    )


def compile_steps(
    step_on_replica: Step,
    strategy: tf.distribute.Strategy,
    state: State,
    make_batches: Callable[[int], tf.data.Dataset],
    numbers: Sequence[str],
    *,
    tokens: int,
) -> RunSteps:
    """Returns the loop over steps from the current one on, which updates the variables.

    `make_batches(parts)` returns the batches from that step on, each as this many elements, one per replica; `numbers`
    are the metrics to return, `tokens` is the number of tokens in a batch.
    """
    variables, moments = state.variables, state.moments

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        if context.num_input_pipelines > 1:
            raise ValueError("several machines at once are not supported; expected the TPU of one machine")
        return make_batches(strategy.num_replicas_in_sync)

    iterator = iter(strategy.distribute_datasets_from_function(batches))

    @tf.autograph.experimental.do_not_convert  # not needed, and tracing would take twice as long
    def on_replica(features: dict[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        params, before = tf.nest.map_structure(tf.convert_to_tensor, (variables, moments))
        params, after, metrics = step_on_replica(params, before, features, step)
        tf.nest.map_structure(lambda variable, value: variable.assign(value), (variables, moments), (params, after))
        return tf.stack([metrics[name] for name in numbers])

    @tf.function
    def steps(first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        rows = tf.TensorArray(tf.float32, size=count, element_shape=[len(numbers)])
        for index in tf.range(count):
            row = strategy.run(on_replica, args=(next(iterator), first + index))
            rows = rows.write(index, strategy.experimental_local_results(row)[0])  # the same on every replica
        return rows.stack()

    def run_steps(first: int, count: int) -> Ran:
        return Ran(np.asarray(steps(tf.constant(first), tf.constant(count))), count * tokens)

    return run_steps
