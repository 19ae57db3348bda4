"""Computes the order of training: which example is in which batch, for any step.

Each epoch reads the shards in an order computed from (seed, epoch), a few at a time, interleaved; the examples of a
shard were shuffled when they were made. The number of examples in each shard is known, so a resumed run computes its
position without reading anything twice, and continues as if it had never stopped. Batches span epochs; none is short.

With `masks = "dynamic"`, an example gets new masks each time it is read, as a function of (seed, epoch, shard, index);
with "static", it keeps the masks in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from service.tokenizer import Tokenizer
from training.examples.masking import replace_masks, row_keys
from training.examples.records import shard_paths
from training.examples.settings import ExampleSettings, Vocabulary

SHARDS_AT_ONCE = 4  # interleaved, to separate the examples of one document
BLOCK_LENGTH = 16


@dataclass(frozen=True)
class TrainingSet:
    """The training examples in a directory that `danmaku-train examples` wrote."""

    paths: list[str]
    counts: list[int]  # examples per path
    settings: ExampleSettings
    tokenizer: Tokenizer
    report: dict[str, Any]  # examples.json

    @classmethod
    def open(cls, directory: Path) -> TrainingSet:
        """Opens a directory. Raises FileNotFoundError or ValueError if it is not complete."""
        if not (directory / "examples.json").exists():
            raise FileNotFoundError(
                f"no examples.json in {directory}; expected a folder written by `danmaku-train examples`"
            )
        report = json.loads((directory / "examples.json").read_text(encoding="utf-8"))
        paths = shard_paths(directory, "train")
        # Shards of another program or of an older version have no counts.
        counts = report["shards"]["train"] if "shards" in report else [_count_records(path) for path in paths]
        if len(counts) != len(paths) or not all(counts):
            raise ValueError(
                f"invalid examples in {directory}: {len(paths)} training shards; expected {len(counts)}, "
                "as examples.json says; create the examples again"
            )
        settings = ExampleSettings(**report["settings"])
        return cls(paths, counts, settings, Tokenizer.from_file(directory / "vocab.txt"), report)


def training_batches(
    data: TrainingSet, *, batch_size: int, seed: int, first_step: int, masks: str = "static", parts: int = 1
) -> tf.data.Dataset:
    """Returns endless batches from `first_step` on, a function of (data, batch_size, seed) and the step.

    With `parts`, each batch is that many consecutive elements of equal size.
    """
    vocabulary = Vocabulary.of(data.tokenizer)
    parsed = _make_specification(data.settings, words=masks == "dynamic" and data.settings.masking == "wwm")
    names = list(parsed)

    def group(epoch: tf.Tensor, shards: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
        def shard(number: tf.Tensor) -> tf.data.Dataset:
            records = tf.data.TFRecordDataset(tf.gather(data.paths, number)).enumerate()
            return records.map(lambda index, record: (record, epoch, number, index))

        # Shards of one epoch only, or few shards would fill a batch with copies of the same examples.
        # `deterministic` keeps the order.
        return (
            tf.data.Dataset.from_tensor_slices(shards)
            .filter(lambda number: number >= 0)
            .interleave(
                shard, cycle_length=SHARDS_AT_ONCE, block_length=BLOCK_LENGTH, num_parallel_calls=1, deterministic=True
            )
            .skip(skip)
        )

    def remask(epoch: Any, shard: Any, index: Any, *values: Any) -> list[np.ndarray]:
        features = dict(zip(names, values, strict=True))
        keys = row_keys(seed, shard, index, epoch)
        new = replace_masks(features, data.settings, vocabulary, keys)
        return [new[name] for name in names]

    def parse_features(
        records: tf.Tensor, epoch: tf.Tensor, shard: tf.Tensor, index: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(records, parsed)
        values = [tf.cast(v, tf.int32) if v.dtype == tf.int64 else v for v in map(features.get, names)]
        if masks == "dynamic":
            dtypes = [value.dtype for value in values]
            new = tf.numpy_function(remask, [epoch, shard, index, *values], dtypes, stateful=False)
            values = [tf.ensure_shape(value, old.shape) for value, old in zip(new, values, strict=True)]
        return {name: value for name, value in zip(names, values, strict=True) if name != "word_starts"}

    signature = tuple(tf.TensorSpec(shape, tf.int64) for shape in ([], [SHARDS_AT_ONCE], []))
    groups = tf.data.Dataset.from_generator(
        lambda: schedule(data.counts, seed=seed, first_example=first_step * batch_size), output_signature=signature
    )
    records = groups.flat_map(group).batch(batch_size // parts, drop_remainder=True)
    return records.map(parse_features, num_parallel_calls=2, deterministic=True).prefetch(2 * parts)


def schedule(counts: list[int], *, seed: int, first_example: int) -> Iterator[tuple[int, list[int], int]]:
    """Yields, endlessly, which shards are read together: (epoch, shard numbers padded with -1, examples to skip).

    Starts with the group that contains `first_example`, counted over all epochs.
    """
    epoch, left = divmod(first_example, sum(counts))
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(counts)).tolist()
        for start in range(0, len(order), SHARDS_AT_ONCE):
            shards = order[start : start + SHARDS_AT_ONCE]
            size = sum(counts[shard] for shard in shards)
            if left < size:
                yield epoch, shards + [-1] * (SHARDS_AT_ONCE - len(shards)), left
            left = max(0, left - size)
        epoch += 1


def _count_records(path: str) -> int:
    return int(tf.data.TFRecordDataset(path).reduce(np.int64(0), lambda count, _: count + 1))


def _make_specification(settings: ExampleSettings, *, words: bool) -> dict[str, tf.io.FixedLenFeature]:
    """Returns the features of a record, as the input_fn of run_pretraining.py declares them."""
    t, p = settings.max_seq_length, settings.max_predictions_per_seq
    lengths = {"input_ids": t, "input_mask": t, "segment_ids": t, "masked_lm_positions": p, "masked_lm_ids": p}
    lengths |= {"next_sentence_labels": 1} | ({"word_starts": t} if words else {})
    specification = {name: tf.io.FixedLenFeature([length], tf.int64) for name, length in lengths.items()}
    return specification | {"masked_lm_weights": tf.io.FixedLenFeature([p], tf.float32)}
