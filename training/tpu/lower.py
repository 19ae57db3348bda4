"""Lowers the training step of one replica to HLO for a TPU: python -m training.tpu.lower SETTINGS.json OUT.hlo

Shapes follow from the settings alone: no data, no weights and no TPU are needed. Gradients and sums are added up over
the replicas by CrossReplicaSum, as TPUStrategy does. Only tensorflow-tpu has the TPU's kernels: an operation that a TPU
does not support, or a shape that depends on data, is an error here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from service.model_directory import BertConfig
from training.bert.model import variable_shapes
from training.bert.optimizer import Moments
from training.bert.step import Replicas, make_step
from training.config import TrainConfig


def make_feature_specs(rows: int, max_seq_length: int, max_predictions_per_seq: int) -> dict[str, tf.TensorSpec]:
    """Returns the specs of a batch of what `examples` writes."""
    t, p = max_seq_length, max_predictions_per_seq
    widths = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), t)
    widths |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), p) | {"next_sentence_labels": 1}
    specs = {name: tf.TensorSpec([rows, width], tf.int32) for name, width in widths.items()}
    return specs | {"masked_lm_weights": tf.TensorSpec([rows, p], tf.float32)}


def make_step_and_specs(
    config: TrainConfig, bert_config: BertConfig, features: dict[str, tf.TensorSpec], replicas: int
) -> tuple[Any, tuple[Any, ...]]:
    """Returns the step of one replica, and the specs of its arguments: weights, moments, features, step, replica."""
    group = [list(range(replicas))]

    def add(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.raw_ops.CrossReplicaSum(input=tensor, group_assignment=group) for tensor in tensors]

    def step(params: Any, moments: Any, features: Any, number: tf.Tensor, replica: tf.Tensor) -> Any:
        shared = Replicas(replicas, lambda: replica, add) if replicas > 1 else Replicas()
        return make_step(config, bert_config, shared)(params, moments, features, number)

    params = {name: tf.TensorSpec(shape, tf.float32) for name, shape in variable_shapes(bert_config).items()}
    scalar = tf.TensorSpec([], tf.int32)
    return step, (params, Moments(params, params), features, scalar, scalar)


def lower(settings: dict[str, Any]) -> bytes:
    """Returns the serialised HLO of the step that the settings describe (see `check`)."""
    config = TrainConfig(**settings["config"])
    features = make_feature_specs(
        config.batch_size // settings["replicas"], settings["max_seq_length"], settings["max_predictions_per_seq"]
    )
    step, specs = make_step_and_specs(config, BertConfig(**settings["bert_config"]), features, settings["replicas"])

    @tf.function(jit_compile=True)
    def flat(*tensors: tf.Tensor) -> list[tf.Tensor]:  # the compiler supports no nested arguments
        return tf.nest.flatten(step(*tf.nest.pack_sequence_as(specs, tensors)))

    compiler_ir = flat.experimental_get_compiler_ir(*tf.nest.flatten(specs))
    return compiler_ir(stage="hlo_serialized", platform_name="TPU")


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(lower(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
