"""Computes the losses and accuracies of the two pre-training tasks, for training and evaluation alike.

Sums are computed first and divided later: a batch may be spread over devices and micro-batches, and only the sums of
its parts can be added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from service.model_directory import BertConfig
from training.bert import model
from training.bert.model import Params

Features = dict[str, tf.Tensor]
METRICS = ("masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy", "next_sentence_loss")


class Task(Protocol):
    """Defines what a step learns, as scalar sums over the parts of a batch and the weight that divides them."""

    @property
    def names(self) -> Sequence[str]:
        """The variables that learn."""

    @property
    def metrics(self) -> Sequence[str]:
        """The names of the sums."""

    def weigh(self, features: Features) -> tf.Tensor:
        """Returns the weight of a part; the weights of all parts are added up."""

    def sums(self, params: Params, features: Features, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `metrics` as sums over a part, with dropout by the seed."""

    def means(self, sums: dict[str, tf.Tensor], weight: tf.Tensor) -> dict[str, tf.Tensor]:
        """Divides sums by the weight of the batch: `metrics`, and `loss`, whose gradients are the update."""


@dataclass(frozen=True)
class Pretraining:
    """BERT's two tasks."""

    config: BertConfig
    batch_size: int
    frozen_layers: int = 0

    metrics = METRICS

    @property
    def names(self) -> Sequence[str]:
        return model.trainable_names(self.config, self.frozen_layers)

    def weigh(self, features: Features) -> tf.Tensor:
        return tf.reduce_sum(features["masked_lm_weights"])

    def sums(self, params: Params, features: Features, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        return loss_sums(params, self.config, features, dropout_seed=seed)

    def means(self, sums: dict[str, tf.Tensor], weight: tf.Tensor) -> dict[str, tf.Tensor]:
        found = means(sums, weight, tf.constant(float(self.batch_size)))
        return {"loss": found["masked_lm_loss"] + found["next_sentence_loss"], **found}


def loss_sums(params: Params, config: BertConfig, features: Features, **encode_options: Any) -> dict[str, tf.Tensor]:
    """Returns METRICS as sums: masked_lm_* over masked tokens by their weight, next_sentence_* over examples."""
    hidden = model.encode(
        params,
        config,
        features["input_ids"],
        features["input_mask"],
        features["segment_ids"],
        **encode_options,
    )[-1]
    logits = model.masked_lm_logits(params, hidden, features["masked_lm_positions"])  # [b, p, v]
    ids, weights = features["masked_lm_ids"], features["masked_lm_weights"]  # [b, p]
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)
    right = tf.cast(tf.argmax(logits, -1, tf.int32) == ids, tf.float32)

    next_logits = model.next_sentence_logits(params, hidden)  # [b, 2]
    labels = features["next_sentence_labels"][:, 0]
    next_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, next_logits)
    next_right = tf.cast(tf.argmax(next_logits, -1, tf.int32) == labels, tf.float32)
    asked = features.get("next_sentence_weights", tf.ones_like(next_loss))  # [b]; texts without order have 0
    return {
        "masked_lm_accuracy": tf.reduce_sum(right * weights),
        "masked_lm_loss": tf.reduce_sum(loss * weights),
        "next_sentence_accuracy": tf.reduce_sum(next_right * asked),
        "next_sentence_loss": tf.reduce_sum(next_loss * asked),
    }


def means(sums: dict[str, tf.Tensor], predictions: tf.Tensor, examples: tf.Tensor) -> dict[str, tf.Tensor]:
    """Divides sums over that many masked tokens and examples: METRICS as run_pretraining.py reports them."""
    return {name: sums[name] / (predictions if name.startswith("masked_lm") else examples) for name in METRICS}


def losses(params: Params, config: BertConfig, features: Features, **encode_options: Any) -> dict[str, tf.Tensor]:
    """Returns METRICS of one batch, and `predictions`, the number of masked tokens they are means over."""
    predictions = tf.reduce_sum(features["masked_lm_weights"])
    examples = tf.cast(tf.shape(features["input_ids"])[0], tf.float32)
    sums = loss_sums(params, config, features, **encode_options)
    return {**means(sums, predictions, examples), "predictions": predictions}
