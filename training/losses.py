"""The two pre-training tasks as four numbers of a batch: what training lowers is what evaluation reports."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from service.model_directory import BertConfig
from training import model
from training.model import Params

Features = dict[str, tf.Tensor]
METRICS = ("masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy", "next_sentence_loss")


def losses(params: Params, config: BertConfig, features: Features, **encode_options: Any) -> dict[str, tf.Tensor]:
    """The four numbers of one batch, and how many predictions they are means of.

    masked_lm_* are means over masked tokens, next_sentence_* over examples, as run_pretraining.py reports
    them.
    """
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
    predictions = tf.reduce_sum(weights)

    next_logits = model.next_sentence_logits(params, hidden)  # [b, 2]
    labels = features["next_sentence_labels"][:, 0]
    next_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, next_logits)
    next_right = tf.cast(tf.argmax(next_logits, -1, tf.int32) == labels, tf.float32)
    return {
        "masked_lm_accuracy": tf.reduce_sum(right * weights) / predictions,
        "masked_lm_loss": tf.reduce_sum(loss * weights) / predictions,
        "next_sentence_accuracy": tf.reduce_mean(next_right),
        "next_sentence_loss": tf.reduce_mean(next_loss),
        "predictions": predictions,
    }
