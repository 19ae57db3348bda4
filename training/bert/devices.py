"""Chooses the devices of a run: the eight cores of a TPU, all GPUs of this machine, or its CPU, with the same code.

TensorFlow's distribution strategies place the copies of the weights and add up what the copies compute. A TPU is used
from its own machine (a Cloud TPU VM). Training on several machines at once is not supported.
"""

from __future__ import annotations

import tensorflow as tf

from training.bert.step import Replicas


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
