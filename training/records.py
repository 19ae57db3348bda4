"""Examples ↔ TFRecord shards with the feature names of google-research/bert, and the pipeline over them.

The order of training is a pure function of (seed, epoch): shards are shuffled by it, examples were shuffled
within their shard when it was made. So a resumed run skips to its place by arithmetic and reads what the
first would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf

from service.tokenizer import Tokenizer
from training.clean import SPLITS
from training.corpus import kept_counts, text_files
from training.examples import ExampleSettings, make_shards
from training.files import temporary_name, write_text
from training.progress import Progress


def write_examples(
    corpus: Path, output: Path, settings: ExampleSettings, *, seed: int = 1, lines_per_shard: int = 100_000
) -> dict[str, object]:
    """TFRecord shards of a cleaned corpus's splits, its vocab.txt, and examples.json, which is returned too.

    A split of fewer than two documents gets none: a next sentence needs another document to draw from.
    """
    if lines_per_shard < 1:
        raise ValueError(f"lines_per_shard is {lines_per_shard}; it must be at least 1")
    lines = {split: kept_counts(corpus, split) for split in SPLITS}
    tokenizer = Tokenizer.from_file(corpus / "vocab.txt")
    output.mkdir(parents=True, exist_ok=True)
    # Training wants this file: gone before the first change and written after the last, it vouches for the
    # shards.
    (output / "examples.json").unlink(missing_ok=True)
    counts = {}
    for split in SPLITS:
        for old in output.glob(f"{split}-*.tfrecord"):
            old.unlink()
        if lines[split].get("documents", 0) < 2:  # no other document to draw a next sentence from
            counts[split] = 0
            continue
        shards = max(1, round(lines[split]["lines"] / lines_per_shard))
        progress = Progress(f"examples of {split}", shards, "shards")
        counts[split] = 0
        texts = text_files(corpus, split)
        made = make_shards(texts, tokenizer, settings, seed=seed, lines_per_shard=lines_per_shard)
        for number, features in enumerate(made):
            write_shard(output / f"{split}-{number:05}.tfrecord", features)
            counts[split] += len(features["input_ids"])
            progress.update(min(number + 1, shards))
    if not any(counts.values()):
        raise ValueError(
            f"no split of {corpus} has two documents, and the next-sentence task needs another to draw from"
        )
    write_text(output / "vocab.txt", (corpus / "vocab.txt").read_text(encoding="utf-8"))
    report = {"examples": counts, "seed": seed, "settings": asdict(settings)}
    write_text(output / "examples.json", json.dumps(report, indent=2) + "\n")
    return report


def write_shard(path: Path, features: dict[str, np.ndarray]) -> None:
    """One TFRecord file: features as `make_examples` returns them, a `tf.train.Example` per row."""
    with temporary_name(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for row in range(len(features["input_ids"])):
            example = tf.train.Example()
            for name, values in features.items():
                feature = example.features.feature[name]
                kind = feature.float_list if values.dtype == np.float32 else feature.int64_list
                kind.value.extend(values[row].tolist())
            writer.write(example.SerializeToString())


def shard_paths(directory: Path, split: str) -> list[str]:
    paths = sorted(map(str, directory.glob(f"{split}-*.tfrecord")))
    if not paths:
        raise FileNotFoundError(f"no {split}-*.tfrecord in {directory}: make them with `danmaku-train examples`")
    return paths


def training_batches(
    paths: list[str], settings: ExampleSettings, *, batch_size: int, seed: int, first_step: int
) -> Iterator[dict[str, tf.Tensor]]:
    """Endless batches from `first_step` on, the same for one (paths, batch_size, seed) wherever it starts.

    Batches run on from one epoch into the next, so none is short.
    """

    def epoch_of(number: tf.Tensor) -> tf.data.Dataset:
        seeds = [seed, tf.cast(number, tf.int32)]
        order = tf.random.experimental.stateless_shuffle(tf.constant(paths), seeds)
        # Several shards at once, so that the documents of one do not stand side by side; but of one epoch
        # only, or few shards would fill a batch with copies of the same examples. `deterministic` keeps the
        # order.
        return tf.data.Dataset.from_tensor_slices(order).interleave(
            tf.data.TFRecordDataset, cycle_length=4, block_length=16, num_parallel_calls=1, deterministic=True
        )

    records = tf.data.Dataset.counter().flat_map(epoch_of)
    batches = records.skip(first_step * batch_size).batch(batch_size, drop_remainder=True)
    return iter(batches.map(lambda batch: _parse(batch, settings)).prefetch(2))


def evaluation_batches(features: dict[str, np.ndarray], batch_size: int) -> Iterator[dict[str, tf.Tensor]]:
    """Every example once, in order; the last batch may be short."""
    for start in range(0, len(features["input_ids"]), batch_size):
        yield {name: tf.constant(values[start : start + batch_size]) for name, values in features.items()}


def _parse(batch: tf.Tensor, settings: ExampleSettings) -> dict[str, tf.Tensor]:
    t, p = settings.max_seq_length, settings.max_predictions_per_seq
    integers = {
        "input_ids": t,
        "input_mask": t,
        "segment_ids": t,
        "masked_lm_positions": p,
        "masked_lm_ids": p,
    }
    integers["next_sentence_labels"] = 1
    specification = {name: tf.io.FixedLenFeature([length], tf.int64) for name, length in integers.items()}
    specification["masked_lm_weights"] = tf.io.FixedLenFeature([p], tf.float32)
    features = tf.io.parse_example(batch, specification)
    return {
        name: tf.cast(values, tf.int32) if values.dtype == tf.int64 else values for name, values in features.items()
    }
