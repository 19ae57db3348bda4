"""BERT with its two pre-training heads, as pure functions over a dictionary of variables.

The keys of the dictionary are the variable names of google-research/bert, so a checkpoint is the dictionary itself and
nothing has to be renamed for bert-as-service. There are no layers and no Keras:
`params["bert/…"]` may be a `tf.Variable` in training and a constant in tests. The result of a function
depends on its arguments only.

Shapes: b examples, t tokens, h hidden units, n heads, d = h / n, p masked positions, v vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from service.model_directory import BertConfig, Shapes, dense_shapes, encoder_shapes, layer_norm_shapes

Params = Mapping[str, Any]
LAYER_NORM_EPSILON = 1e-12
MASKED_SCORE = -10000.0


def variable_shapes(config: BertConfig) -> Shapes:
    """Returns the name and shape of every variable of a pre-training checkpoint: 206 for 12 layers."""
    h, v = config.hidden_size, config.vocab_size
    return {
        **encoder_shapes(config),
        **dense_shapes("bert/pooler/dense", h, h),
        **dense_shapes("cls/predictions/transform/dense", h, h),
        **layer_norm_shapes("cls/predictions/transform", h),
        "cls/predictions/output_bias": (v,),
        "cls/seq_relationship/output_weights": (2, h),
        "cls/seq_relationship/output_bias": (2,),
    }


def initial_values(config: BertConfig, seed: int) -> dict[str, np.ndarray]:
    """Returns BERT's random weights: truncated normal kernels, zero biases, unit LayerNorm gammas."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in variable_shapes(config).items():
        if name.endswith("gamma"):
            values[name] = np.ones(shape, np.float32)
        elif name.endswith(("beta", "bias")):
            values[name] = np.zeros(shape, np.float32)
        else:
            values[name] = _truncated_normal(rng, shape) * np.float32(config.initializer_range)
    return values


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(int(outside.sum()), np.float32)
    return values


def encode(
    params: Params,
    config: BertConfig,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    segment_ids: tf.Tensor,
    *,
    dropout_seed: tf.Tensor | None = None,
) -> list[tf.Tensor]:
    """Returns the embeddings and the output of every layer, first to last: num_hidden_layers + 1 tensors [b, t, h].

    With `dropout_seed` (two int32), dropout is on and a function of the seed. Raises ValueError for too many tokens.
    """
    if (config.hidden_act, config.layer_norm_eps) != ("gelu", LAYER_NORM_EPSILON):
        raise ValueError(
            f"invalid hidden_act {config.hidden_act!r} with layer_norm_eps {config.layer_norm_eps:g}; expected gelu "
            f"and {LAYER_NORM_EPSILON:g}, the only ones that can be trained"
        )
    dropout = _Dropout(dropout_seed)
    length = _sizes(input_ids)[1]
    if isinstance(length, int) and length > config.max_position_embeddings:
        raise ValueError(
            f"invalid input: {length} tokens; expected at most {config.max_position_embeddings}, the model's positions"
        )
    x = tf.gather(params["bert/embeddings/word_embeddings"], input_ids)  # [b, t, h]
    x += tf.gather(params["bert/embeddings/token_type_embeddings"], segment_ids)
    x += params["bert/embeddings/position_embeddings"][:length]  # [t, h]
    x = dropout(_layer_norm(params, "bert/embeddings", x), config.hidden_dropout_prob)
    return [x, *_layers(params, config, x, input_mask, range(config.num_hidden_layers), dropout)]


def encode_on(params: Params, config: BertConfig, hidden: tf.Tensor, input_mask: tf.Tensor, done: int) -> tf.Tensor:
    """Continues from the output of the first `done` layers to that of the last: [b, t, h] → [b, t, h]."""
    layers = range(done, config.num_hidden_layers)
    return [hidden, *_layers(params, config, hidden, input_mask, layers, _Dropout(None))][-1]


def masked_lm_logits(params: Params, sequence: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Returns scores over the vocabulary at the masked positions: [b, t, h], [b, p] → [b, p, v]."""
    x = tf.gather(sequence, positions, batch_dims=1)  # [b, p, h]
    x = gelu(_dense(params, "cls/predictions/transform/dense", x))
    x = _layer_norm(params, "cls/predictions/transform", x)
    # The input embeddings are also the output weights: a kernel here, so in the precision of the other kernels.
    dtype = params["cls/predictions/transform/dense/kernel"].dtype
    embeddings = tf.cast(params["bert/embeddings/word_embeddings"], dtype)  # [v, h]
    return _product(x, embeddings, transpose=True) + params["cls/predictions/output_bias"]


def next_sentence_logits(params: Params, sequence: tf.Tensor) -> tf.Tensor:
    """Returns scores of "B follows A" (0) and "B is from another document" (1): [b, t, h] → [b, 2]."""
    pooled = tf.tanh(_dense(params, "bert/pooler/dense", sequence[:, 0]))  # [b, h]
    weights = params["cls/seq_relationship/output_weights"]  # [2, h]
    return _product(pooled, weights, transpose=True) + params["cls/seq_relationship/output_bias"]


def trainable_names(config: BertConfig, frozen_layers: int) -> list[str]:
    """Returns the names of the variables to train if the embeddings and the first layers are frozen; 0: all of them."""
    frozen = tuple(f"bert/encoder/layer_{index}/" for index in range(frozen_layers))
    if frozen:
        frozen = ("bert/embeddings/", *frozen)
    return [name for name in variable_shapes(config) if not name.startswith(frozen)]


def with_kernels_as(params: Params, dtype: tf.DType) -> Params:
    """Returns the parameters with every kernel cast: matrix products run in `dtype`, everything else in float32.

    The cast is differentiable: gradients arrive in float32.
    """
    return {name: tf.cast(value, dtype) if name.endswith("kernel") else value for name, value in params.items()}


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Computes x · Φ(x) with the exact Φ (arXiv 1606.08415), as the BERT of 2018 and bert-serving-server 1.10 do.

    Google's later code approximates it by tanh; the vectors of the two differ in the third digit.
    """
    return 0.5 * x * (1.0 + tf.math.erf(x * np.sqrt(0.5).astype(x.dtype.as_numpy_dtype)))


def _layers(
    params: Params, config: BertConfig, x: tf.Tensor, input_mask: tf.Tensor, layers: Iterable[int], dropout: _Dropout
) -> Iterator[tf.Tensor]:
    bias = (1.0 - tf.cast(input_mask, x.dtype))[:, None, None, :] * MASKED_SCORE  # [b, 1, 1, t]
    for index in layers:
        layer = f"bert/encoder/layer_{index}"
        attended = _self_attention(params, config, f"{layer}/attention/self", x, bias, dropout)
        attended = _dense(params, f"{layer}/attention/output/dense", attended)
        x = _layer_norm(params, f"{layer}/attention/output", x + dropout(attended, config.hidden_dropout_prob))
        inner = gelu(_dense(params, f"{layer}/intermediate/dense", x))  # [b, t, 4h]
        inner = _dense(params, f"{layer}/output/dense", inner)
        x = _layer_norm(params, f"{layer}/output", x + dropout(inner, config.hidden_dropout_prob))
        yield x


def _self_attention(
    params: Params, config: BertConfig, scope: str, x: tf.Tensor, bias: tf.Tensor, dropout: _Dropout
) -> tf.Tensor:
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    batch, length = _sizes(x)[:2]

    def project(name: str) -> tf.Tensor:
        projected = _dense(params, f"{scope}/{name}", x)
        return tf.transpose(tf.reshape(projected, [batch, length, heads, size]), [0, 2, 1, 3])  # [b, n, t, d]

    scores = tf.matmul(project("query"), project("key"), transpose_b=True) * size**-0.5 + bias  # [b, n, t, t]
    weights = dropout(tf.nn.softmax(scores), config.attention_probs_dropout_prob)
    context = tf.transpose(tf.matmul(weights, project("value")), [0, 2, 1, 3])  # [b, t, n, d]
    return tf.reshape(context, [batch, length, heads * size])


def _dense(params: Params, scope: str, x: tf.Tensor) -> tf.Tensor:
    return _product(x, params[f"{scope}/kernel"]) + params[f"{scope}/bias"]


def _product(x: tf.Tensor, kernel: tf.Tensor, *, transpose: bool = False) -> tf.Tensor:
    """Multiplies x by a kernel over the last axis, in the kernel's dtype; returns x's dtype: [..., i] → [..., o].

    One flat product, because on CPU the gradient of an einsum over [b, t, i] takes many times longer.
    """
    inputs, outputs = reversed(kernel.shape) if transpose else kernel.shape
    flat = tf.cast(tf.reshape(x, [-1, inputs]), kernel.dtype)
    product = tf.cast(tf.matmul(flat, kernel, transpose_b=transpose), x.dtype)
    return tf.reshape(product, [*_sizes(x)[:-1], outputs])


def _sizes(x: tf.Tensor) -> list[Any]:
    """Returns the size of each axis: a number where it is known, because a compiler needs static shapes."""
    return [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(x.shape)]


def _layer_norm(params: Params, scope: str, x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    scale = tf.math.rsqrt(variance + LAYER_NORM_EPSILON) * params[f"{scope}/LayerNorm/gamma"]
    return x * scale + (params[f"{scope}/LayerNorm/beta"] - mean * scale)


class _Dropout:
    """A dropout whose masks are a function of one seed, because a resumed run must repeat them."""

    def __init__(self, seed: tf.Tensor | None) -> None:
        self._seed, self._calls = seed, 0

    def __call__(self, x: tf.Tensor, rate: float) -> tf.Tensor:
        if self._seed is None or rate == 0.0:
            return x
        self._calls += 1
        # Folded in, not added: step 7, call 2 must not repeat the mask of step 8, call 1.
        seed = tf.random.experimental.stateless_fold_in(self._seed, self._calls)
        return tf.nn.experimental.stateless_dropout(x, rate, seed=seed)
