"""A stream of batches can be entered anywhere and continues like the whole one."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from service.tokenizer import Tokenizer
from training.examples.batches import SHARDS_AT_ONCE, TrainingSet, schedule, training_batches
from training.examples.records import write_examples, write_shard
from training.examples.sentence_pairs import make_shards
from training.examples.settings import ExampleSettings

SETTINGS = ExampleSettings(max_seq_length=32)
Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def data(examples: Path) -> TrainingSet:
    return TrainingSet.open(examples)


def batches(data: TrainingSet, first_step: int, count: int, seed: int = 1, masks: str = "static") -> list[Batch]:
    stream = training_batches(data, batch_size=8, seed=seed, first_step=first_step, masks=masks)
    return [{name: value.numpy() for name, value in batch.items()} for batch in stream.take(count)]


def restore(batch: Batch) -> np.ndarray:
    """Returns the ids before masking."""
    ids = batch["input_ids"].copy()
    rows, places = np.nonzero(batch["masked_lm_weights"])
    ids[rows, batch["masked_lm_positions"][rows, places]] = batch["masked_lm_ids"][rows, places]
    return ids


def test_shards_hold_the_examples_that_were_made(corpus: Path, tmp_path: Path) -> None:
    """Examples are written, read through the training pipeline, and compared with their arrays."""
    tokenizer = Tokenizer.from_file(corpus / "vocab.txt")
    made = next(make_shards(corpus / "train.txt", tokenizer, SETTINGS, seed=1, lines_per_shard=150))
    write_shard(tmp_path / "train-00000.tfrecord", made)
    rows = len(made["input_ids"])
    data = TrainingSet([str(tmp_path / "train-00000.tfrecord")], [rows], SETTINGS, tokenizer, {})
    read = batches(data, 0, rows // 8)
    for name in made:
        values = np.concatenate([batch[name] for batch in read])
        assert values.dtype == made[name].dtype
        assert np.array_equal(values, made[name][: rows // 8 * 8]), name
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.tfrecord"]


@pytest.mark.parametrize("masks", ["static", "dynamic"])
@pytest.mark.parametrize("first_step", [1, 9, 20])
def test_a_stream_entered_later_continues_as_the_whole_one(data: TrainingSet, first_step: int, masks: str) -> None:
    """This holds across the end of an epoch: the corpus has fewer than 20 batches."""
    assert sum(data.counts) < 20 * 8
    whole = batches(data, 0, 30, masks=masks)
    for late, early in zip(batches(data, first_step, 30 - first_step, masks=masks), whole[first_step:], strict=True):
        assert all(np.array_equal(late[name], early[name]) for name in late)


def test_an_epoch_holds_every_example_once(data: TrainingSet) -> None:
    """No batch repeats an example before all have been seen, however few shards there are."""
    count = sum(data.counts)
    stream = np.concatenate([batch["input_ids"] for batch in batches(data, 0, 2 * count // 8)])
    first, second = stream[:count].tolist(), stream[count:].tolist()
    assert len({tuple(row) for row in first}) > 0.97 * count  # two may be alike by chance
    assert {tuple(row) for row in second} <= {tuple(row) for row in first}


def test_another_seed_gives_another_order_of_shards(data: TrainingSet) -> None:
    """The order depends on the seed, not on the file system."""
    assert len(data.paths) >= 3
    streams = [np.concatenate([batch["input_ids"] for batch in batches(data, 0, 5, seed)]) for seed in range(4)]
    assert any(not np.array_equal(streams[0], other) for other in streams[1:])


def test_the_parts_of_a_batch_are_the_whole_batch(data: TrainingSet) -> None:
    """So replicas together get what one would have got."""
    whole = batches(data, 3, 2)
    parts = list(training_batches(data, batch_size=8, seed=1, first_step=3, parts=4).take(8))
    joined = np.concatenate([part["input_ids"].numpy() for part in parts])
    assert np.array_equal(joined, np.concatenate([batch["input_ids"] for batch in whole]))


def test_shapes_are_static(data: TrainingSet) -> None:
    """A TPU requires it, with dynamic masks, too."""
    for masks in ("static", "dynamic"):
        element = training_batches(data, batch_size=8, seed=1, first_step=0, masks=masks, parts=2).element_spec
        assert all(spec.shape.is_fully_defined() and spec.shape[0] == 4 for spec in element.values())
        assert {spec.dtype for spec in element.values()} == {tf.int32, tf.float32}


def test_dynamic_masks_hide_other_tokens_of_the_same_examples(data: TrainingSet) -> None:
    """The masks of the file, of the first epoch and of the second differ; nothing else does."""
    count = sum(data.counts)
    kinds = [batches(data, 0, 2 * count // 8, masks=masks) for masks in ("static", "dynamic")]
    static, dynamic = ({name: np.concatenate([b[name] for b in kind]) for name in kind[0]} for kind in kinds)
    assert np.array_equal(restore(static), restore(dynamic))
    for name in ("input_mask", "segment_ids", "next_sentence_labels"):
        assert np.array_equal(static[name], dynamic[name])
    seen: dict[tuple[int, ...], list[tuple[list[int], list[int]]]] = {}
    for row, ids in enumerate(restore(dynamic).tolist()):
        places = [kind["masked_lm_positions"][row].tolist() for kind in (static, dynamic)]
        seen.setdefault(tuple(ids), []).append((places[0], places[1]))
    twice = [places for places in seen.values() if len(places) == 2]  # once in each epoch
    assert len(twice) > 0.9 * count
    assert all(first[0] == second[0] for first, second in twice)  # the masks of the file are always the same
    # A short example has few choices, and may be asked for the same token by chance.
    assert np.mean([first[1] != second[1] for first, second in twice]) > 0.7
    assert np.mean([first[0] != first[1] for first, _ in twice]) > 0.7


@pytest.mark.parametrize("first_example", [0, 1, 29, 30, 31, 94, 95, 96, 300])
def test_the_schedule_begins_at_any_example_of_any_epoch(first_example: int) -> None:
    """The skipped examples, with the groups before them, are those that were read before."""
    counts = [10, 20, 5, 30, 1, 29]
    assert sum(counts) == 95

    def examples(first: int, count: int) -> list[tuple[int, int]]:
        """Yields (epoch, shards read together) for each example from the first on."""
        found: list[tuple[int, int]] = []
        for epoch, shards, skip in schedule(counts, seed=4, first_example=first):
            assert len(shards) == SHARDS_AT_ONCE
            group = [shard for shard in shards if shard >= 0]
            found += [(epoch, tuple(group))] * (sum(counts[shard] for shard in group) - skip)
            if len(found) >= count:
                return found[:count]
        raise AssertionError

    assert examples(first_example, 200) == examples(0, first_example + 200)[first_example:]


def test_an_epoch_of_the_schedule_has_every_shard_once() -> None:
    """Every epoch has an order of its own."""
    orders = []
    for epoch in range(3):
        groups = islice(schedule([10] * 6, seed=1, first_example=60 * epoch), 2)
        orders.append([shard for _, shards, _ in groups for shard in shards if shard >= 0])
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_shards_of_another_program_are_counted(examples: Path, tmp_path: Path) -> None:
    """An examples.json without counts, as somebody would write it by hand, is enough."""
    made = json.loads((examples / "examples.json").read_text(encoding="utf-8"))
    for path in examples.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "examples.json").write_text(json.dumps({"settings": made["settings"]}), encoding="utf-8")
    assert TrainingSet.open(tmp_path).counts == made["shards"]["train"]


def test_missing_shards_are_an_error(corpus: Path, tmp_path: Path) -> None:
    """Otherwise a run would continue in another order."""
    write_examples(corpus, tmp_path, SETTINGS, lines_per_shard=150)
    next(tmp_path.glob("train-*")).unlink()
    with pytest.raises(ValueError, match=r"\d training shards; expected \d, as examples.json says"):
        TrainingSet.open(tmp_path)


def test_words_stay_whole_when_masked_again(corpus: Path, tmp_path: Path) -> None:
    """Records of whole-word masking mark where words begin; batches for training do not need the marks."""
    pytest.importorskip("rjieba")
    settings = ExampleSettings(max_seq_length=32, masking="wwm")
    write_examples(corpus, tmp_path, settings)
    data = TrainingSet.open(tmp_path)
    assert data.settings == settings
    [record, *_] = tf.data.TFRecordDataset(data.paths).take(1).as_numpy_iterator()
    assert "word_starts" in tf.train.Example.FromString(record).features.feature
    static, dynamic = batches(data, 0, 4), batches(data, 0, 4, masks="dynamic")
    for one, other in zip(static, dynamic, strict=True):
        assert "word_starts" not in one and "word_starts" not in other
        assert np.array_equal(restore(one), restore(other))
    assert any(
        not np.array_equal(one["input_ids"], other["input_ids"]) for one, other in zip(static, dynamic, strict=True)
    )
