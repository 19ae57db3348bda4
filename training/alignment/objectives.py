"""Defines the terms of the loss of `align` as pure functions of tensors; `align` adds them up by their weights.

contrast    texts of one moment are nearer than texts of other moments (InfoNCE, arXiv 1807.03748)
spelling    a text is nearer to its own variant than to its opposite, by a margin, and than to other texts
relations   texts of a batch are as near to one another as the teacher says (arXiv 1904.05068)
crowding    strangers spread evenly over the sphere (uniformity, arXiv 2005.10242)

The prefixes of a vector are also trained as vectors (Matryoshka, arXiv 2205.13147).

Shapes: b texts of a batch, d dimensions, s texts with variants, r texts with a teacher's vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from training.bert.model import MASKED_SCORE

Tensors = dict[str, tf.Tensor]


def mean_over_tokens(hidden: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Computes bert-as-service's REDUCE_MEAN, including [CLS] and [SEP]: [b, t, h], [b, t] → [b, h]."""
    weights = tf.cast(mask, hidden.dtype)[:, :, None]
    return tf.reduce_sum(hidden * weights, 1) / tf.reduce_sum(weights, 1)


def contrast(
    ours: tf.Tensor,
    theirs: tf.Tensor,
    is_right: tf.Tensor,
    is_wrong: tf.Tensor,
    *,
    dims: Sequence[int],
    temperature: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns InfoNCE of vectors [b, d] with others [b, d], and how often a right one is the nearest.

    `is_right` and `is_wrong` are bool [b, b]. The loss is the mean over the prefixes in `dims` and over the rows that
    have a right one; a row with several contributes their mean.
    """
    right, wrong = tf.cast(is_right, tf.float32), tf.cast(is_wrong, tf.float32)
    counts = tf.reduce_sum(right, 1)  # [b]
    rows = tf.cast(counts > 0, tf.float32)
    num_rows = tf.maximum(tf.reduce_sum(rows), 1.0)
    total = tf.constant(0.0)
    for dim in dims:
        ours_unit, theirs_unit = (tf.math.l2_normalize(side[:, :dim], -1) for side in (ours, theirs))
        scores = tf.matmul(ours_unit, theirs_unit, transpose_b=True) / temperature  # [b, b]
        against = tf.reduce_logsumexp(scores + (1.0 - wrong) * MASKED_SCORE, 1, keepdims=True)
        loss = tf.nn.softplus(against - scores) * right  # -log of exp(right) / (exp(right) + sum of exp(wrong))
        total += tf.reduce_sum(tf.math.divide_no_nan(tf.reduce_sum(loss, 1), counts)) / num_rows
    nearest_right, nearest_wrong = (tf.reduce_max(scores + (1.0 - those) * MASKED_SCORE, 1) for those in (right, wrong))
    is_first = tf.cast(nearest_right > nearest_wrong, tf.float32) * rows
    return total / len(dims), tf.reduce_sum(is_first) / num_rows


def spelling(
    texts: tf.Tensor,
    variants: tf.Tensor,
    opposites: tf.Tensor,
    has_opposite: tf.Tensor,
    is_same: tf.Tensor,
    *,
    temperature: float,
    margin: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the loss of texts, variants and opposites [s, d], and how often variants are nearer than opposites.

    A text must choose its variant (0) among the variants of all texts and its own opposite, whose cosine is
    increased by `margin`. `has_opposite` is bool [s]; `is_same` bool [s, s] marks texts of one kind,
    so that copies do not count as wrong.
    """
    text, variant, opposite = (tf.math.l2_normalize(side, -1) for side in (texts, variants, opposites))
    among = tf.matmul(text, variant, transpose_b=True)  # [s, s]
    right = tf.linalg.diag_part(among)
    there = tf.cast(has_opposite, tf.float32)
    against = tf.reduce_sum(text * opposite, -1)  # [s]
    from_variant = tf.reduce_sum(variant * opposite, -1)
    absent = (1.0 - there) * MASKED_SCORE
    wrong = tf.concat(
        [
            among / temperature + tf.cast(is_same, tf.float32) * MASKED_SCORE,
            ((against + margin) / temperature + absent)[:, None],
            ((from_variant + margin) / temperature + absent)[:, None],
        ],
        1,
    )
    loss = tf.reduce_mean(tf.nn.softplus(tf.reduce_logsumexp(wrong, 1) - right / temperature))
    nearer = tf.cast(right > against, tf.float32) * there
    return loss, tf.math.divide_no_nan(tf.reduce_sum(nearer), tf.reduce_sum(there))


def relations(vectors: tf.Tensor, taught: tf.Tensor, *, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns two losses of vectors [r, d], given a teacher's [r, e], centred and of length 1.

    The first is the divergence of the softmax over a text's cosines with all others from the teacher's: which texts are
    near. The second is the mean squared difference of the cosines: how near they are.
    """
    count = tf.shape(vectors)[0]
    itself = tf.eye(count)
    unit = tf.math.l2_normalize(vectors, -1)
    ours, theirs = (tf.matmul(side, side, transpose_b=True) for side in (unit, taught))  # [r, r]
    shares = tf.nn.softmax(theirs / temperature + itself * MASKED_SCORE)
    log_ours = tf.nn.log_softmax(ours / temperature + itself * MASKED_SCORE)
    log_theirs = tf.nn.log_softmax(theirs / temperature + itself * MASKED_SCORE)
    divergence = tf.reduce_mean(tf.reduce_sum(shares * (log_theirs - log_ours), 1))
    pairs = tf.cast(count * (count - 1), tf.float32)
    return divergence, tf.reduce_sum(tf.square(ours - theirs) * (1.0 - itself)) / pairs


def crowding(vectors: tf.Tensor, is_stranger: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns uniformity of vectors [b, d] over pairs of strangers (bool [b, b]; lower is better), and mean cosine."""
    unit = tf.math.l2_normalize(vectors, -1)
    cosines = tf.matmul(unit, unit, transpose_b=True)
    strangers = tf.cast(is_stranger, tf.float32)
    count = tf.maximum(tf.reduce_sum(strangers), 1.0)
    crowded = tf.reduce_sum(tf.exp(4.0 * cosines - 4.0) * strangers) / count  # exp(-2 |x - y|²)
    return tf.math.log(tf.maximum(crowded, 1e-9)), tf.reduce_sum(cosines * strangers) / count
