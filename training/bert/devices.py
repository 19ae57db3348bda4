"""What a run computes on: the eight cores of a TPU, all GPUs of this machine, or its CPU, with the same code.

TensorFlow's distribution strategies place the copies of the weights and add up what the copies compute. A TPU is
reached on its own machine (a Cloud TPU VM); several machines at once are left out.
"""

from __future__ import annotations

import tensorflow as tf

from training.bert.step import Replicas


def open_strategy(tpu: str | None = None) -> tf.distribute.Strategy:
    """A TPU by its name (`local` on its own machine); without one, every GPU there is, or else the CPU.

    Raises ValueError if that TPU cannot be reached.
    """
    if tpu is not None:
        try:
            return tf.distribute.TPUStrategy(tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu))
        except (tf.errors.OpError, ValueError) as error:
            raise ValueError(f"no TPU {tpu!r} was found; leave out --tpu to run on GPU or CPU: {error}") from None
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def has_fast_bfloat16(strategy: tf.distribute.Strategy) -> bool:
    """TPUs and GPUs; a CPU only sometimes (benchmarks/train.py)."""
    return isinstance(strategy, tf.distribute.TPUStrategy) or bool(tf.config.list_logical_devices("GPU"))


def replicas_of(strategy: tf.distribute.Strategy) -> Replicas:
    def add(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        added: list[tf.Tensor] = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)
        return added

    return Replicas(
        strategy.num_replicas_in_sync, lambda: tf.distribute.get_replica_context().replica_id_in_sync_group, add
    )
