"""`danmaku-train classify`: a file of labelled texts becomes a head that the service reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from labelled import OTHERS, QUESTIONS, write_labelled

from service.encoders.options import EncoderOptions
from service.heads.folder import read_head
from service.heads.head import Encoder, to_probabilities
from training.cli import main
from training.evaluation.models import embed
from training.heads import linear
from training.heads.texts import LabelledTexts

ENCODER = Encoder("tiny", "f0", (-2,), "REDUCE_MEAN")


def train(tiny_model: Path, tmp_path: Path, *flags: str, texts: int = 20) -> Path:
    path = write_labelled(tmp_path / "labelled.csv", texts)
    output = tmp_path / "heads/question"
    assert main(["classify", "--input", str(path), "--model", str(tiny_model), "--output", str(output), *flags]) == 0
    return output


def test_a_head_tells_the_labels_of_new_texts_apart(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = train(tiny_model, tmp_path)
    head, report = read_head(output), json.loads((output / "report.json").read_text("utf-8"))
    texts = ["他是谁", "你好吗", "晚安哈哈"]
    said = [head.labels[label] for label in head.score(texts, embed(tiny_model, texts)).argmax(1)]

    assert said == ["question", "question", "other"]
    assert head.encoder.model == "tiny"
    assert report["learned"] == 40 and report["test"]["texts"] == 8
    assert np.sum(report["test"]["confusion"]) == 8
    assert f"version {head.version}, macro F1" in capsys.readouterr().out
    assert f"version `{head.version}`" in (output / "README.md").read_text("utf-8").lower()


def test_the_same_texts_give_the_same_version(tiny_model: Path, tmp_path: Path) -> None:
    versions = set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        versions.add(read_head(train(tiny_model, tmp_path / name)).version)

    assert len(versions) == 1


def test_eight_texts_of_a_label_are_enough(tiny_model: Path, tmp_path: Path) -> None:
    head = read_head(train(tiny_model, tmp_path, texts=8))
    judged = [*QUESTIONS[8:], *OTHERS[8:]]
    right = head.score(judged, embed(tiny_model, judged)).argmax(1) == np.repeat([1, 0], 12)

    assert right.mean() > 0.7


def test_evaluation_leaves_out_texts_of_the_training_file(tiny_model: Path, tmp_path: Path) -> None:
    test = tmp_path / "test.tsv"
    test.write_text("你是谁\tquestion\n谁来了\tquestion\n安好\tother\n", encoding="utf-8")
    report = json.loads((train(tiny_model, tmp_path, "--test", str(test)) / "report.json").read_text("utf-8"))

    assert report["test"]["texts"] == 2


def test_other_layers_are_another_encoder(tiny_model: Path, tmp_path: Path) -> None:
    output = train(tiny_model, tmp_path, "--pooling-layer", "-1", "-2")

    assert read_head(output).encoder.pooling_layer == (-1, -2)
    assert "--pooling-layer -1 -2" in json.loads((output / "report.json").read_text("utf-8"))["serve"]


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--input", "missing.csv"], "No such file"),
        (["--model", "missing"], "missing is not a directory"),
        (["--test", "odd.tsv"], "label 'odd'; expected one of other, question"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.tsv").write_text("草\todd\n")
    path = str(write_labelled(tmp_path / "labelled.csv"))
    command = ["classify", "--input", path, "--model", str(tiny_model), "--output", "heads/question", *flags]

    assert main(command) == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "heads").exists()


def make_task(count: int, seed: int) -> tuple[LabelledTexts, np.ndarray]:
    """Texts without meaning, whose vectors tell three labels apart, more or less."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    vectors = rng.normal(size=(count, 8)).astype(np.float32)
    vectors[np.arange(count), labels] += 2
    texts = ["".join(map(chr, rng.integers(0x4E00, 0x9000, 3))) for _ in range(count)]
    return LabelledTexts(texts, labels, ("a", "b", "c")), vectors


@pytest.mark.parametrize("class_weight", ["balanced", None])
def test_vectors_alone_suffice_and_probabilities_are_calibrated(
    class_weight: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "FOLDS", 3)  # fewer fits
    monkeypatch.setattr(linear, "SCALES", (0.0, 1.0))
    monkeypatch.setattr(linear, "STRENGTHS", (1.0, 10.0))
    texts, vectors = make_task(450, seed=1)
    choice = linear.choose(texts, vectors, class_weight)
    head = linear.train(texts, vectors, ENCODER, choice, class_weight)
    judged, judged_vectors = make_task(2000, seed=2)
    probabilities = to_probabilities(head.score(judged.texts, judged_vectors))
    right = probabilities.argmax(1) == judged.labels

    assert choice.scale > 0
    assert right.mean() > 0.75
    assert abs(probabilities.max(1).mean() - right.mean()) < 0.05


def test_a_head_scores_like_the_trained_classifier() -> None:
    texts, vectors = make_task(300, seed=3)
    choice = linear.Choice(0.5, 10.0, temperature=2.0)
    features = linear.Features(texts.texts, vectors)
    regression = linear._fit(features.learned, texts.labels, choice.scale, choice.strength, None)
    head = linear.train(texts, vectors, ENCODER, choice, None)
    expected = regression.decision_function(features.split(texts.texts, vectors).join(0.5)) / 2.0

    assert np.allclose(head.score(texts.texts, vectors), expected, atol=0.02)  # n-grams are float16


def test_the_options_of_the_encoder_are_part_of_its_fingerprint(tiny_model: Path) -> None:
    from training.heads.classify import describe_encoder

    fingerprints = {
        describe_encoder(tiny_model, EncoderOptions(pooling_layer=layers)).fingerprint for layers in ((-2,), (-1,))
    }
    assert len(fingerprints) == 2
