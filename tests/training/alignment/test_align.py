"""Training draws danmaku of one moment together and those of different videos apart, and can be stopped anywhere."""

from __future__ import annotations

import json
import shutil
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
from training.alignment import cooccurrence, ngrams
from training.alignment import timed_lines as moments
from training.alignment.align import NUMBERS, align, initial_values, losses, open_mean
from training.alignment.batches import AlignmentBatches
from training.alignment.objectives import mean_over_tokens
from training.alignment.pretraining import PretrainingExamples
from training.alignment.relations import TaughtTexts
from training.alignment.teacher import NGRAMS_FOLDER, Taught
from training.alignment.timed_lines import TimedLines
from training.bert import model
from training.bert.loop import MismatchedRun
from training.config import TERMS, AlignConfig
from training.examples.settings import ExampleSettings

CONFIG = AlignConfig(
    batch_size=8,
    num_train_steps=6,
    num_warmup_steps=1,
    learning_rate=1e-3,
    save_checkpoints_steps=3,
    log_steps=1,
    min_count=2,
    dims=(16, 32),
    ngram_weight=0.5,
    ngram_texts=8,
    taught_danmaku=40,
    cooccurrence_dim=40,
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
        assert align(CONFIG, workdir, [models[1]], [danmaku], heldout=0.2) == workdir / "model.ckpt-6"
    return workdir


@pytest.fixture(scope="module")
def batches_of(run: Path, models: tuple[Path, Path]) -> Callable[[AlignConfig], AlignmentBatches]:
    opened = open_model_directory(models[1], model.variable_shapes)
    teacher = cooccurrence.load(run / cooccurrence.FILE, TimedLines.load(run / moments.FILE)).shortened(32)
    settings = ExampleSettings(max_seq_length=32)
    examples = PretrainingExamples(teacher.lines, None, opened.tokenizer, settings, general_share=0.0, seed=1)
    texts = [teacher.lines.texts[row] for row in teacher.rows]
    taught = TaughtTexts.of(Taught(texts, ngrams.fit(teacher)(texts)), opened.tokenizer)
    return lambda config: AlignmentBatches(
        config, teacher, opened.tokenizer, 32, taught={"ngrams": taught}, pretraining=examples
    )


def test_a_resumed_run_ends_with_the_same_weights(
    run: Path, danmaku: Path, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are equal to the last bit."""
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
            align(CONFIG, tmp_path, [models[1]], [danmaku], heldout=0.2)
    assert align(CONFIG, tmp_path, [models[1]], [danmaku], heldout=0.2) == tmp_path / "model.ckpt-6"

    assert _losses(tmp_path) == _losses(run)
    once, twice = (open_model_directory(workdir, model.variable_shapes).weights for workdir in (run, tmp_path))
    for name, value in once.items():
        np.testing.assert_array_equal(value, twice[name], err_msg=name)


def test_a_workdir_belongs_to_one_run(run: Path, danmaku: Path, models: tuple[Path, Path]) -> None:
    with pytest.raises(MismatchedRun, match=r"temperature was 0\.1"):
        align(replace(CONFIG, temperature=0.2), run, [models[1]], [danmaku], heldout=0.2)
    with pytest.raises(MismatchedRun, match="the inputs are different"):
        align(CONFIG, run, [models[0]], [danmaku], heldout=0.2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dims": (8, 16)}, "invalid dims: the last is 16; expected hidden_size, 32"),
        ({"pooling_layer": -3}, "invalid pooling_layer: -3; expected -1, the last, to -2, the first"),
        ({"pooling_layer": 0}, "invalid pooling_layer: 0; expected -1"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(
    danmaku: Path, models: tuple[Path, Path], tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    """The error comes before anything is written."""
    with pytest.raises(ValueError, match=message):
        align(replace(CONFIG, **wrong), tmp_path, [models[1]], [danmaku], heldout=0.2)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_every_number_of_a_step_is_logged(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {*NUMBERS, "tokens_per_s"} <= rows[0].keys()
    for row in rows:
        parts = row["moment_loss"] + row["pair_loss"] + row["masked_lm_loss"] + row["next_sentence_loss"]
        parts += 0.5 * row["spelling_loss"] + 0.2 * row["crowding_loss"]
        parts += 0.5 * (row["ngram_loss"] + 10 * row["ngram_error"])
        assert row["loss"] == pytest.approx(parts, rel=1e-5)


def test_ngrams_learn_more_dimensions_than_the_model_has(run: Path) -> None:
    with np.load(run / NGRAMS_FOLDER / "00000.npz") as stored:
        assert stored["vectors"].shape == (CONFIG.taught_danmaku, CONFIG.cooccurrence_dim)
    assert open_model_directory(run, model.variable_shapes).config.hidden_size < CONFIG.cooccurrence_dim


def test_the_trained_vectors_are_the_served_ones(run: Path) -> None:
    """By default, the service's vectors are the mean that training compares."""
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


def test_a_batch_is_a_function_of_its_number(batches_of: Callable[[AlignConfig], AlignmentBatches]) -> None:
    once, again = batches_of(CONFIG).batch(4), batches_of(CONFIG).batch(4)
    for name, values in once.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)
    assert not np.array_equal(once["danmaku_targets"], batches_of(CONFIG).batch(5)["danmaku_targets"])


def test_negatives_and_pairs(batches_of: Callable[[AlignConfig], AlignmentBatches]) -> None:
    """Danmaku of other videos, or far apart, are negatives; those of one moment are a pair; copies are neither."""
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


def test_the_mean_of_models_is_the_mean_of_their_weights(models: tuple[Path, Path]) -> None:
    one, other = (open_model_directory(directory, model.variable_shapes) for directory in models)
    both = open_mean(list(models))
    for name, value in both.weights.items():
        np.testing.assert_allclose(value, (one.weights[name] + other.weights[name]) / 2, atol=1e-7)
    assert both.digest not in (one.digest, other.digest)


def test_an_aligned_model_has_a_mean_with_what_it_was_aligned_from(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Only the aligned one has lengths to which its vectors may be cut."""
    aligned, other = tmp_path / "aligned", tmp_path / "other"
    for directory, change in ((aligned, {"matryoshka_dimensions": [8, 16]}), (other, {"num_attention_heads": 1})):
        shutil.copytree(models[1], directory)
        config = json.loads((directory / "bert_config.json").read_text())
        (directory / "bert_config.json").write_text(json.dumps(config | change))

    assert open_mean([models[0], aligned]).digest
    with pytest.raises(ValueError, match="its shape or vocabulary differs"):
        open_mean([models[0], other])


def test_centring_moves_vectors_and_not_the_language_model(
    models: tuple[Path, Path], batches_of: Callable[[AlignConfig], AlignmentBatches]
) -> None:
    opened = open_model_directory(models[1], model.variable_shapes)
    lines = batches_of(CONFIG).teacher.lines
    for pooling_layer in (-1, -2):
        config = replace(CONFIG, pooling_layer=pooling_layer)
        centred = initial_values(config, opened, lines)
        ids = tf.constant([[opened.tokenizer.cls_id, *lines.ids(5), opened.tokenizer.sep_id]])
        mask, positions = tf.ones_like(ids), tf.constant([[1]])
        before, after = (
            model.encode(weights, opened.config, ids, mask, tf.zeros_like(ids)) for weights in (opened.weights, centred)
        )
        logits = (
            [model.masked_lm_logits(weights, hidden, positions), model.next_sentence_logits(weights, hidden)]
            for weights, hidden in ((opened.weights, before[-1]), (centred, after[-1]))
        )
        for ours, theirs in zip(*logits, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        moved = mean_over_tokens(before[pooling_layer] - after[pooling_layer], mask).numpy()[0]
        again = initial_values(config, replace(opened, weights=centred), lines)
        beta = f"bert/encoder/layer_{opened.config.num_hidden_layers + pooling_layer}/output/LayerNorm/beta"
        np.testing.assert_allclose(opened.weights[beta] - centred[beta], moved, atol=1e-5)
        np.testing.assert_allclose(again[beta], centred[beta], atol=1e-5)  # the middle is the origin already


@pytest.mark.parametrize("term", ["spelling", "pretraining", "crowding", "moment", "pair", "ngram"])
def test_a_term_lowers_its_own_loss(
    term: str, models: tuple[Path, Path], batches_of: Callable[[AlignConfig], AlignmentBatches]
) -> None:
    """Some steps of a tiny model along the gradient of one term, on one batch, suffice."""
    opened = open_model_directory(models[1], model.variable_shapes)
    weights = {f"{name}_weight": float(name == term) for name in TERMS}
    config = replace(CONFIG, **weights, kernel_dtype="float32")  # type: ignore[arg-type]
    features = {name: tf.constant(values) for name, values in batches_of(config).batch(1).items()}
    variables = {name: tf.Variable(value) for name, value in opened.weights.items()}
    found = []
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = losses(variables, config, opened.config, features, tf.constant(0))["loss"]
        found.append(float(loss))
        for variable, gradient in zip(variables.values(), tape.gradient(loss, list(variables.values())), strict=True):
            if gradient is not None:
                variable.assign_sub(0.02 * tf.convert_to_tensor(gradient))
    assert found[-1] < found[0]


def _losses(workdir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
