"""`danmaku classify`: a label per line, by the head that a file names."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from service.cli import main
from service.heads.folder import write_head
from service.heads.head import Encoder, Head, Weights


def make_head(model: Path, path: Path, *, fingerprint: str | None = None) -> Path:
    """A head of n-grams alone: 草 is grass."""
    from service.encoders.options import EncoderOptions
    from service.heads.ngrams import hash_ngrams
    from training.heads.classify import describe_encoder

    encoder = describe_encoder(model, EncoderOptions())
    if fingerprint:
        encoder = Encoder("other", fingerprint, (-2,), "REDUCE_MEAN")
    grass = np.setdiff1d(hash_ngrams(["草"], 18)[0], hash_ngrams([""], 18)[0]).astype(np.uint32)
    ngrams = np.tile(np.array([0, 9, 1], np.float16), (len(grass), 1))
    bias = np.array([1, 0], np.float32)
    weights = Weights(np.zeros((16, 2), np.float32), bias, grass, ngrams, unseen=1.0, bits=18)
    write_head(path, Head(("other", "grass"), encoder, weights), {}, "")
    return path


@pytest.fixture
def danmaku(tmp_path: Path) -> Path:
    path = tmp_path / "danmaku.txt"
    path.write_text("草\n\n晚安,好\n", encoding="utf-8")
    return path


def classify(model: Path, danmaku: Path, head: Path, output: Path) -> int:
    flags = ["--encoder", f"onnx://{model}", "--head", str(head), "--output", str(output)]
    return main(["classify", str(danmaku), *flags])


def test_every_line_has_a_label_or_a_reason(
    tiny_model: Path, tmp_path: Path, danmaku: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = make_head(tiny_model, tmp_path / "grass")
    assert classify(tiny_model, danmaku, head, tmp_path / "labels.ndjson") == 0
    assert classify(tiny_model, danmaku, head, tmp_path / "labels.csv") == 0
    first, blank, third = map(json.loads, (tmp_path / "labels.ndjson").read_text("utf-8").splitlines())
    table = list(csv.reader((tmp_path / "labels.csv").read_text("utf-8").splitlines()))

    assert (first["text"], first["labels"]["grass"]["label"]) == ("草", "grass")
    assert (blank["labels"], blank["error_type"]) == (None, "empty_text")
    assert (third["index"], third["labels"]["grass"]["label"]) == (2, "other")
    assert table[0] == ["index", "text", "grass", "grass probability", "error"]
    assert [row[2] for row in table[1:]] == ["grass", "", "other"]
    assert float(table[3][3]) == third["labels"]["grass"]["scores"]["other"]
    assert "3 lines, 1 without a label" in capsys.readouterr().out


def test_a_head_of_another_model_is_refused_and_nothing_is_written(
    tiny_model: Path, tmp_path: Path, danmaku: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = make_head(tiny_model, tmp_path / "grass", fingerprint="f1")

    assert classify(tiny_model, danmaku, head, tmp_path / "labels.csv") == 1
    assert "the head 'grass' reads vectors of 'other' with the fingerprint f1" in capsys.readouterr().err
    assert not list(tmp_path.glob("labels*"))


def test_another_format_is_refused(
    tiny_model: Path, tmp_path: Path, danmaku: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = make_head(tiny_model, tmp_path / "grass")

    assert classify(tiny_model, danmaku, head, tmp_path / "labels.npy") == 1
    assert "expected a name that ends in .csv or .ndjson" in capsys.readouterr().err
