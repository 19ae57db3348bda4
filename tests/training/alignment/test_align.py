"""Danmaku of one moment are drawn together, those of different videos apart; and the run can be stopped anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.model_directory import open_model_directory
from training.alignment import align as align_module
from training.alignment import cooccurrence
from training.alignment import timed_lines as moments
from training.alignment.align import align, mean_over_tokens, moment_loss, pair_loss
from training.alignment.batches import AlignmentBatches
from training.alignment.timed_lines import TimedLines
from training.bert import model
from training.bert.loop import MismatchedRun
from training.config import AlignConfig

CONFIG = AlignConfig(
    batch_size=8,
    num_train_steps=6,
    num_warmup_steps=1,
    learning_rate=1e-3,
    save_checkpoints_steps=3,
    log_steps=1,
    min_count=2,
    dims=(16, 32),
)
FEW_LENGTHS = np.array([8])  # a step is compiled for each, which takes seconds


@pytest.fixture(autouse=True)
def one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.alignment.batches.LENGTHS", FEW_LENGTHS)


@pytest.fixture(scope="module")
def run(danmaku: Path, models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir after six steps on the invented danmaku."""
    workdir = tmp_path_factory.mktemp("aligned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.alignment.batches.LENGTHS", FEW_LENGTHS)
        assert align(CONFIG, workdir, models[1], [danmaku], heldout=0.2) == workdir / "model.ckpt-6"
    return workdir


@pytest.fixture(scope="module")
def batches_of(run: Path, models: tuple[Path, Path]) -> Callable[[AlignConfig], AlignmentBatches]:
    opened = open_model_directory(models[1], model.variable_shapes)
    teacher = cooccurrence.load(run / cooccurrence.FILE, TimedLines.load(run / moments.FILE))
    return lambda config: AlignmentBatches(config, teacher, opened.tokenizer, 32)


def test_a_run_that_was_stopped_ends_with_the_same_weights(
    run: Path, danmaku: Path, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit."""
    steps = align_module.compile_steps

    def until_a_signal(*arguments: object) -> object:
        run_steps = steps(*arguments)  # type: ignore[arg-type]

        def stops_after_3(first: int, count: int) -> object:
            if first == 3:
                raise KeyboardInterrupt
            return run_steps(first, count)

        return stops_after_3

    with monkeypatch.context() as patch:
        patch.setattr(align_module, "compile_steps", until_a_signal)
        with pytest.raises(KeyboardInterrupt):
            align(CONFIG, tmp_path, models[1], [danmaku], heldout=0.2)
    assert align(CONFIG, tmp_path, models[1], [danmaku], heldout=0.2) == tmp_path / "model.ckpt-6"

    assert _losses(tmp_path) == _losses(run)
    once, twice = (open_model_directory(workdir, model.variable_shapes).weights for workdir in (run, tmp_path))
    for name, value in once.items():
        np.testing.assert_array_equal(value, twice[name], err_msg=name)


def test_a_workdir_belongs_to_one_run(run: Path, danmaku: Path, models: tuple[Path, Path]) -> None:
    with pytest.raises(MismatchedRun, match=r"temperature was 0\.05"):
        align(replace(CONFIG, temperature=0.1), run, models[1], [danmaku], heldout=0.2)
    with pytest.raises(MismatchedRun, match="the inputs are different"):
        align(CONFIG, run, models[0], [danmaku], heldout=0.2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dims": (8, 16)}, "the last of dims is 16; it must be hidden_size, 32"),
        ({"pooling_layer": -3}, "pooling_layer is -3; it must be from -1, the last, to -2, the first"),
        ({"pooling_layer": 0}, "pooling_layer is 0"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    danmaku: Path, models: tuple[Path, Path], tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match=message):
        align(replace(CONFIG, **wrong), tmp_path, models[1], [danmaku], heldout=0.2)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_every_number_of_a_step_is_logged(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"moment_loss", "moment_accuracy", "pair_loss", "masked_lm_loss", "tokens_per_s"} <= rows[0].keys()
    for row in rows:
        assert row["loss"] == pytest.approx(
            row["moment_loss"] + row["pair_loss"] + 0.1 * row["masked_lm_loss"], rel=1e-5
        )


def test_what_is_trained_is_what_is_served(run: Path) -> None:
    """The service's vectors, when nothing is set, are the mean that training compares."""
    texts = ["草", "哈哈哈", "晚安"]
    opened = open_model_directory(run, model.variable_shapes)
    with closing(OnnxEncoder.open(run, EncoderOptions(), threads=1)) as encoder:
        prepared = encoder.inputs.prepare_texts(texts)
        served = encoder.encode_now(prepared)
    for text, vector in zip(prepared, served, strict=True):
        ids = tf.constant([text.ids])
        mask = tf.ones_like(ids)
        hidden = model.encode(opened.weights, opened.config, ids, mask, tf.zeros_like(ids))[CONFIG.pooling_layer]
        np.testing.assert_allclose(mean_over_tokens(hidden, mask)[0], vector, atol=1e-5)


def test_a_batch_follows_from_its_number(batches_of: Callable[[AlignConfig], AlignmentBatches]) -> None:
    once, again = batches_of(CONFIG).batch(4), batches_of(CONFIG).batch(4)
    for name, values in once.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)
    assert not np.array_equal(once["targets"], batches_of(CONFIG).batch(5)["targets"])


def test_a_batch_has_masks_in_its_first_part_only(batches_of: Callable[[AlignConfig], AlignmentBatches]) -> None:
    """Put back, they are the danmaku of a batch without."""
    hidden = batches_of(CONFIG).batch(2)
    plain = batches_of(replace(CONFIG, masked_lm_weight=0.0)).batch(2)
    assert "masked_lm_ids" not in plain and hidden["masked_lm_ids"].shape[0] == 2  # a quarter of 8
    rows, places = np.nonzero(hidden["masked_lm_weights"])
    ids = hidden["input_ids"].copy()
    ids[rows, hidden["masked_lm_positions"][rows, places]] = hidden["masked_lm_ids"][rows, places]
    np.testing.assert_array_equal(ids, plain["input_ids"])
    assert set(rows) == {0, 1}


def test_what_is_wrong_and_what_is_a_pair(batches_of: Callable[[AlignConfig], AlignmentBatches]) -> None:
    """Danmaku of other videos, or far apart, are wrong; those of one moment a pair; copies neither."""
    lines = batches_of(CONFIG).teacher.lines
    video = np.flatnonzero(lines.document_of == lines.document_of[0])
    elsewhere = np.flatnonzero(lines.document_of != lines.document_of[0])[:20]
    seconds, kinds = lines.seconds, lines.kinds[lines.text_of]
    last = next(n for n in video[::-1] if kinds[n] != kinds[video[0]])
    gap = float(seconds[last] - seconds[video[0]])
    numbers = np.concatenate([[video[0], last], elsewhere])

    def relations(**settings: float) -> tuple[np.ndarray, np.ndarray]:
        return batches_of(replace(CONFIG, **settings))._relations(numbers)  # type: ignore[arg-type]

    is_wrong, is_pair = relations(hard_negative_gap_s=gap + 1, window_s=gap - 1)
    np.testing.assert_array_equal(is_wrong[0, 2:], kinds[elsewhere] != kinds[video[0]])
    assert not is_wrong[0, 1] and not is_pair[0].any()
    is_wrong, is_pair = relations(hard_negative_gap_s=gap, window_s=gap - 1)
    assert is_wrong[0, 1] and not is_pair[0, 1]
    is_wrong, is_pair = relations(hard_negative_gap_s=gap + 1, window_s=gap)
    assert is_pair[0, 1] and not is_wrong[0, 1] and not is_pair[0, 2:].any()


def test_the_losses_are_those_of_each_prefix_over_what_is_wrong() -> None:
    """InfoNCE, computed once more by numpy; a row without a pair does not count."""
    rng = np.random.default_rng(5)
    vectors, targets = rng.standard_normal((2, 4, 32)).astype(np.float32)
    wrong = rng.random((4, 4)) < 0.6
    right = np.zeros((4, 4), bool)
    right[0, [1, 2]] = right[1, 0] = True
    wrong &= ~right & ~np.eye(4, dtype=bool)

    def expected(theirs: np.ndarray, right: np.ndarray) -> float:
        found = []
        for dim in CONFIG.dims:
            ours, others = (v[:, :dim] / np.linalg.norm(v[:, :dim], axis=1, keepdims=True) for v in (vectors, theirs))
            scores = np.exp(ours @ others.T / CONFIG.temperature)
            against = (scores * wrong).sum(1, keepdims=True)
            losses = -np.log(scores / (scores + against))
            found.append(np.mean([losses[row, right[row]].mean() for row in range(4) if right[row].any()]))
        return float(np.mean(found))

    of = tf.constant
    moment = moment_loss(of(vectors), of(targets), of(wrong), CONFIG)
    assert float(moment["moment_loss"]) == pytest.approx(expected(targets, np.eye(4, dtype=bool)), rel=1e-4)
    pair = pair_loss(of(vectors), of(right), of(wrong), CONFIG)
    assert float(pair["pair_loss"]) == pytest.approx(expected(vectors, right), rel=1e-4)


def _losses(workdir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
