"""Shards contain what was made, under BERT's names, and are complete or absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from training.corpus.clean import clean
from training.corpus.files import Shard
from training.examples.records import evaluation_batches, shard_paths, write_examples
from training.examples.settings import ExampleSettings

SETTINGS = ExampleSettings(max_seq_length=32)
NAMES = {
    "input_ids",
    "input_mask",
    "segment_ids",
    "masked_lm_positions",
    "masked_lm_ids",
    "masked_lm_weights",
    "next_sentence_labels",
}


def test_a_record_has_the_features_that_run_pretraining_reads(examples: Path) -> None:
    """Their names and types match: integers, and one list of floats."""
    record = next(iter(tf.data.TFRecordDataset(shard_paths(examples, "train")))).numpy()
    features = tf.train.Example.FromString(record).features.feature
    assert set(features) == NAMES
    floats = {name for name in features if features[name].HasField("float_list")}
    assert floats == {"masked_lm_weights"}


def test_evaluation_sees_every_example_once() -> None:
    """Examples are in order, and the last batch may be short."""
    features = {"input_ids": np.arange(10)[:, None]}
    read = [batch["input_ids"].numpy().ravel().tolist() for batch in evaluation_batches(features, 4)]
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_making_examples_again_replaces_the_old_ones(corpus: Path, tmp_path: Path) -> None:
    """Shards that the new run does not write are deleted; the report describes the new ones."""
    write_examples(corpus, tmp_path, SETTINGS, lines_per_shard=150)
    many = len(shard_paths(tmp_path, "train"))
    report = write_examples(corpus, tmp_path, SETTINGS)
    assert len(shard_paths(tmp_path, "train")) == 1 < many
    records = sum(1 for _ in tf.data.TFRecordDataset(shard_paths(tmp_path, "train")))
    assert report["examples"]["train"] == records
    assert json.loads((tmp_path / "examples.json").read_text(encoding="utf-8")) == report
    assert (tmp_path / "vocab.txt").read_bytes() == (corpus / "vocab.txt").read_bytes()


def test_unfinished_examples_are_refused(corpus: Path, tmp_path: Path) -> None:
    """examples.json marks complete shards, so it is deleted before they change."""
    source, output = tmp_path / "corpus", tmp_path / "examples"
    source.mkdir()
    for path in corpus.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    write_examples(source, output, SETTINGS)
    (source / "heldout.txt").unlink()
    with pytest.raises(FileNotFoundError):
        write_examples(source, output, SETTINGS)
    assert not (output / "examples.json").exists()


def test_a_folder_without_a_cleaned_corpus_is_refused(tmp_path: Path) -> None:
    """The error names the command that makes one."""
    with pytest.raises(FileNotFoundError, match="danmaku-train clean"):
        write_examples(tmp_path, tmp_path / "out", SETTINGS)
    with pytest.raises(FileNotFoundError, match="danmaku-train examples"):
        shard_paths(tmp_path, "train")


def test_shards_of_a_corpus_give_the_examples_of_the_whole(corpus: Path, danmaku: Path, tmp_path: Path) -> None:
    """They are equal to the byte, however many there are."""
    for index in range(3):
        clean([danmaku], tmp_path / "in", vocab=corpus / "vocab.txt", heldout=0.2, shard=Shard(index, 3))
    for directory, output in ((corpus, "whole"), (tmp_path / "in", "shards")):
        write_examples(directory, tmp_path / output, SETTINGS, lines_per_shard=150)
    whole, shards = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "shards")
    ]
    assert any(name.startswith("train-") for name in whole)
    assert whole == shards
