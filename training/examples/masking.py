"""Chooses the tokens to predict, for whole batches at once. The masks of a row are a function of its key alone.

The key of a row is a number computed from (seed, shard, index, epoch), and every random draw is a hash of the key, a
purpose and a position. There is no generator with a state, so masks can be made again at any point of a run, in any
order, by any number of readers.

Tokens are masked in whole units: single tokens (`char`), words (`wwm`), or random runs of up to three tokens (`span`).

Shapes: b rows, t tokens, p places for predictions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.examples.settings import ExampleSettings, Vocabulary

Arrays = dict[str, np.ndarray]

LONGEST_SPAN = 3
# ALBERT, arXiv 1909.11942, section 4.1: the probability of a run of n tokens is proportional to 1 / n.
SPAN_SHARES = np.cumsum([6 / 11, 3 / 11, 2 / 11])
_ORDER, _FATE, _TOKEN, _SPAN = range(4)  # the purposes of draws


def row_keys(seed: int, shards: np.ndarray, indices: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """Returns the keys of the examples at these places: uint64 [b]."""
    key = _hash(np.full(len(shards), seed, np.uint64))
    for part in (epochs, shards, indices):
        key = _hash(key + part.astype(np.uint64))
    return key


def replace_masks(
    features: Mapping[str, np.ndarray], settings: ExampleSettings, vocabulary: Vocabulary, keys: np.ndarray
) -> Arrays:
    """Returns the examples with new masks; restores the true tokens first."""
    ids = np.array(features["input_ids"])
    rows, places = np.nonzero(features["masked_lm_weights"])
    ids[rows, features["masked_lm_positions"][rows, places]] = features["masked_lm_ids"][rows, places]
    return mask_tokens({**features, "input_ids": ids}, settings, vocabulary, keys)


def mask_tokens(
    features: Mapping[str, np.ndarray], settings: ExampleSettings, vocabulary: Vocabulary, keys: np.ndarray
) -> Arrays:
    """Returns unmasked examples (features of `make_examples`) with masks.

    Of the chosen 15 %, 80 % become [MASK], 10 % become a random token and 10 % stay (arXiv 1810.04805,
    section 3.1).
    """
    ids = features["input_ids"]
    special = (ids == vocabulary.cls_id) | (ids == vocabulary.sep_id)
    candidates = (features["input_mask"] > 0) & ~special  # [b, t]
    if settings.masking == "wwm":
        starts = features["word_starts"] > 0
    elif settings.masking == "span":
        starts = _span_starts(candidates, keys)
    else:
        starts = candidates
    chosen = _choose(candidates, starts, settings, keys)  # [b, t]

    count, width = chosen.sum(axis=1, keepdims=True), settings.max_predictions_per_seq
    positions = np.argsort(~chosen, axis=1, kind="stable")[:, :width]  # chosen positions first, in order
    positions = np.pad(positions, [(0, 0), (0, width - positions.shape[1])])
    used = np.arange(width) < count  # [b, p]
    positions = np.where(used, positions, 0).astype(np.int32)

    fate = _to_unit_interval(_draw_bits(keys, _FATE, ids.shape[1]))
    random_ids = _draw_bits(keys, _TOKEN, ids.shape[1]) % np.uint64(vocabulary.size - vocabulary.num_special)
    replacement = np.where(fate < 0.8, vocabulary.mask_id, random_ids.astype(np.int32) + vocabulary.num_special)
    return {
        **features,
        "input_ids": np.where(chosen & (fate < 0.9), replacement, ids).astype(np.int32),
        "masked_lm_positions": positions,
        "masked_lm_ids": np.where(used, np.take_along_axis(ids, positions, axis=1), 0).astype(np.int32),
        "masked_lm_weights": used.astype(np.float32),
    }


def _choose(candidates: np.ndarray, starts: np.ndarray, settings: ExampleSettings, keys: np.ndarray) -> np.ndarray:
    """Chooses whole units in random order while they fit into the share of tokens to mask: bool [b, t].

    Chooses at least one unit, even if it alone exceeds the share.
    """
    rows, length = candidates.shape
    most = settings.max_predictions_per_seq
    before = np.pad(candidates, [(0, 0), (1, 0)])[:, :-1]
    starts = candidates & (starts | ~before)
    first, lengths = _find_units(candidates, starts)
    # A unit longer than the maximum is split into tokens.
    starts = starts | (candidates & (np.take_along_axis(lengths, first, axis=1) > most))
    first, lengths = _find_units(candidates, starts)

    share = np.rint(candidates.sum(axis=1) * settings.masked_lm_prob).astype(np.int64)
    limit = np.clip(share, 1, most)  # [b]
    order = np.argsort(np.where(starts, _draw_bits(keys, _ORDER, length) >> np.uint64(1), ~np.uint64(0)), axis=1)
    total, is_chosen, every = np.zeros(rows, np.int64), np.zeros_like(candidates), np.arange(rows)
    for place in range(length):
        unit = order[:, place]
        size = lengths[every, unit]
        if place == 0:
            limit = np.maximum(limit, size)
        fits = (size > 0) & (total + size <= limit)
        is_chosen[every, unit] = fits
        total += size * fits
        if ((total == limit) | (size == 0)).all():
            break
    return candidates & np.take_along_axis(is_chosen, first, axis=1)


def _find_units(candidates: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the position at which each token's unit starts, the length of the unit that starts at each position)."""
    rows, length = candidates.shape
    first = np.maximum.accumulate(np.where(starts, np.arange(length), 0), axis=1)
    cell = (np.arange(rows)[:, None] * length + first)[candidates]
    return first, np.bincount(cell, minlength=rows * length).reshape(rows, length)


def _span_starts(candidates: np.ndarray, keys: np.ndarray) -> np.ndarray:
    rows, length = candidates.shape
    sizes = 1 + np.searchsorted(SPAN_SHARES, _to_unit_interval(_draw_bits(keys, _SPAN, length)))
    sizes = np.minimum(sizes, LONGEST_SPAN)
    starts, left = np.zeros_like(candidates), np.zeros(rows, np.int64)
    for position in range(length):
        starts[:, position] = left == 0
        left = np.where(left == 0, sizes[:, position], left) - 1
    return starts


def _draw_bits(keys: np.ndarray, purpose: int, count: int) -> np.ndarray:
    """Returns 64 random bits for each row and position: uint64 [b, count]."""
    counters = np.arange(count, dtype=np.uint64) + np.uint64(purpose << 32)
    return _hash(_hash(keys)[:, None] + counters)


def _to_unit_interval(bits: np.ndarray) -> np.ndarray:
    """Converts random bits to numbers from 0 to 1."""
    return (bits >> np.uint64(11)) * 2.0**-53


def _hash(x: np.ndarray) -> np.ndarray:
    """Hashes by one step of splitmix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
