"""Writes examples to TFRecord shards with the feature names of google-research/bert, the format of BERT's trainers.

Shards of Google's create_pretraining_data.py can be trained on here, and these shards there. The vocabulary and
examples.json are written beside them: the settings, the number of examples per shard, and a digest that identifies the
data of a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import tensorflow as tf

from service.tokenizer import Tokenizer
from training.corpus.files import SPLITS, kept_counts, text_files
from training.examples.sentence_pairs import make_shards
from training.examples.settings import ExampleSettings
from training.files import temporary_name, write_text
from training.progress import open_progress


def write_examples(
    corpus: Path, output: Path, settings: ExampleSettings, *, seed: int = 1, lines_per_shard: int = 100_000
) -> dict[str, object]:
    """Writes the TFRecord shards of a cleaned corpus, its vocab.txt and examples.json; returns the latter.

    A split with fewer than two documents has no shards: a next sentence is drawn from another document.
    """
    if lines_per_shard < 1:
        raise ValueError(f"invalid lines_per_shard: {lines_per_shard}; expected at least 1")
    lines = {split: kept_counts(corpus, split) for split in SPLITS}
    tokenizer = Tokenizer.from_file(corpus / "vocab.txt")
    output.mkdir(parents=True, exist_ok=True)
    # Training requires this file. It is removed before the first change and written after the last, so it marks the #
    # shards as complete.
    (output / "examples.json").unlink(missing_ok=True)
    counts: dict[str, int] = {}
    shard_counts: dict[str, list[int]] = {}
    digest = sha256()
    for split in SPLITS:
        for old in output.glob(f"{split}-*.tfrecord"):
            old.unlink()
        shard_counts[split] = []
        if lines[split].get("documents", 0) < 2:  # no other document to draw from
            counts[split] = 0
            continue
        shards = max(1, round(lines[split]["lines"] / lines_per_shard))
        texts = text_files(corpus, split)
        made = make_shards(texts, tokenizer, settings, seed=seed, lines_per_shard=lines_per_shard)
        with open_progress(f"examples of {split}", shards, "shards") as progress:
            for number, features in enumerate(made):
                write_shard(output / f"{split}-{number:05}.tfrecord", features)
                shard_counts[split].append(len(features["input_ids"]))
                for name in sorted(features):
                    digest.update(features[name].data)
                progress.update(1)
        counts[split] = sum(shard_counts[split])
    if not any(counts.values()):
        raise ValueError(f"no split of {corpus} has two documents; expected at least 2, to draw a next sentence from")
    write_text(output / "vocab.txt", (corpus / "vocab.txt").read_text(encoding="utf-8"))
    report = {
        "examples": counts,
        "seed": seed,
        "settings": asdict(settings),
        "digest": digest.hexdigest(),
        "shards": shard_counts,
    }
    write_text(output / "examples.json", json.dumps(report, indent=2) + "\n")
    return report


def write_shard(path: Path, features: dict[str, np.ndarray]) -> None:
    """Writes one TFRecord file: a `tf.train.Example` per row of the features that `make_examples` returns."""
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
        raise FileNotFoundError(
            f"no {split}-*.tfrecord in {directory}; expected a folder written by `danmaku-train examples`"
        )
    return paths


def evaluation_batches(features: dict[str, np.ndarray], batch_size: int) -> Iterator[dict[str, tf.Tensor]]:
    """Yields every example once, in order; the last batch may be short."""
    for start in range(0, len(features["input_ids"]), batch_size):
        yield {name: tf.constant(values[start : start + batch_size]) for name, values in features.items()}
