"""The step is one function: micro-batches and replicas affect only memory and speed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from service.model_directory import BertConfig
from training.bert import model
from training.bert.losses import METRICS, losses
from training.bert.optimizer import Moments, Tensors
from training.bert.step import Replicas, make_step
from training.config import TrainConfig

BERT = BertConfig(
    vocab_size=60,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=12,
    initializer_range=0.2,
)
CONFIG = TrainConfig(batch_size=8, micro_batch_size=2, learning_rate=1e-2, num_warmup_steps=0, kernel_dtype="float32")


def features(rows: int = 8) -> dict[str, tf.Tensor]:
    """Rows with different numbers of masked tokens, so that a mean of means would differ from the mean."""
    rng = np.random.default_rng(3)
    arrays = {
        "input_ids": rng.integers(5, 60, (rows, 12)),
        "input_mask": np.arange(12) < rng.integers(6, 13, (rows, 1)),
        "segment_ids": rng.integers(0, 2, (rows, 12)),
        "masked_lm_positions": rng.integers(1, 6, (rows, 4)),
        "masked_lm_ids": rng.integers(5, 60, (rows, 4)),
        "next_sentence_labels": rng.integers(0, 2, (rows, 1)),
    }
    weights = (np.arange(4) < rng.integers(1, 5, (rows, 1))).astype(np.float32)
    return {name: tf.constant(values, tf.int32) for name, values in arrays.items()} | {
        "masked_lm_weights": tf.constant(weights)
    }


def start() -> tuple[Tensors, Moments]:
    params = {name: tf.constant(value) for name, value in model.initial_values(BERT, 1).items()}
    return params, Moments(*({name: tf.zeros_like(value) for name, value in params.items()} for _ in range(2)))


def after(config: TrainConfig, steps: int = 2) -> tuple[Tensors, dict[str, tf.Tensor]]:
    step = tf.function(make_step(config, BERT))
    params, moments = start()
    for number in range(steps):
        params, moments, metrics = step(params, moments, features(), tf.constant(number))
    return params, metrics


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_four_micro_batches_are_one_batch(optimizer: str) -> None:
    """Gradients, weights and all numbers; without dropout, whose masks a batch in one piece has otherwise.

    Of the weights those are compared that have a gradient: a bias of keys has none (softmax takes no notice of it),
    and both optimizers blow the rounding that is left of it up to a step.
    """
    still = replace(CONFIG, optimizer=optimizer, learning_rate=1e-3)
    bert = replace(BERT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    found = []
    for size in (2, None):
        step = tf.function(make_step(replace(still, micro_batch_size=size), bert))
        found.append(step(*start(), features(), tf.constant(5)))
    (one, moments, numbers), (other, same, others) = found
    for name in one:
        np.testing.assert_allclose(moments.m[name], same.m[name], atol=1e-8)
        if not name.endswith("key/bias"):
            np.testing.assert_allclose(one[name], other[name], atol=1e-6)
    assert {name: float(value) for name, value in numbers.items()} == pytest.approx(
        {name: float(value) for name, value in others.items()}, abs=1e-6
    )


def test_frozen_layers_keep_their_weights_and_the_others_learn() -> None:
    params, _ = start()
    new, _ = after(replace(CONFIG, frozen_layers=1))
    changed = {name for name in params if not np.array_equal(params[name], new[name])}
    assert changed == {name for name in params if not name.startswith(("bert/embeddings/", "bert/encoder/layer_0/"))}


def test_the_metrics_are_those_of_the_whole_batch() -> None:
    """They are computed before the weights change, as in evaluation."""
    bert = replace(BERT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    params, moments = start()
    *_, metrics = make_step(CONFIG, bert)(params, moments, features(), tf.constant(0))
    expected = losses(params, bert, features())
    assert {name: float(metrics[name]) for name in METRICS} == pytest.approx(
        {name: float(expected[name]) for name in METRICS}, abs=1e-6
    )


def test_a_step_is_a_function_of_its_arguments() -> None:
    """With dropout, the same arguments give the same numbers to the last bit; another seed gives others."""
    (one, _), (same, _), (other, _) = (after(config) for config in (CONFIG, CONFIG, replace(CONFIG, seed=2)))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["bert/pooler/dense/kernel"], other["bert/pooler/dense/kernel"])


@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("kernel_dtype", ["float32", "bfloat16"])
def test_every_shape_is_static_and_nothing_is_float64(micro_batch_size: int | None, kernel_dtype: str) -> None:
    """A TPU requires it, in loop bodies and gradients, too."""
    step = tf.function(make_step(replace(CONFIG, micro_batch_size=micro_batch_size, kernel_dtype=kernel_dtype), BERT))
    graph = step.get_concrete_function(*start(), features(), tf.TensorSpec([], tf.int32)).graph
    definition = graph.as_graph_def(add_shapes=True)
    nodes = list(definition.node)
    for function in definition.library.function:
        if "cond" not in function.signature.name:  # what decides on another round, which has names without shapes
            nodes += function.node_def
    assert len(nodes) > 500
    for node in nodes:
        assert tf.float64.as_datatype_enum not in [node.attr[name].type for name in ("T", "dtype", "DstT")], node.name
        for shape in node.attr["_output_shapes"].list.shape:
            assert tf.TensorShape(shape).is_fully_defined(), node


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    """The error has the numbers."""
    with pytest.raises(ValueError, match="invalid batch_size: 8; expected .* 3 replicas with micro-batches of 2"):
        make_step(CONFIG, BERT, Replicas(count=3))
