"""Opening a model directory: every defect is an error that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import ModelError
from service.model_directory import find_checkpoint, open_model_directory


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change_config(model: Path, **changes: object) -> None:
    path = model / "bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_equal_models_have_equal_digests_wherever_they_lie(tiny_model: Path, model: Path) -> None:
    assert open_model_directory(model).digest == open_model_directory(tiny_model).digest
    assert open_model_directory(model).name == "model"


def test_another_vocabulary_is_another_model(tiny_model: Path, model: Path) -> None:
    """A vocabulary of the same size with the same weights gives other vectors."""
    vocab = (model / "vocab.txt").read_text(encoding="utf-8")
    (model / "vocab.txt").write_text(vocab.replace("晚", "早"), encoding="utf-8")

    assert open_model_directory(model).digest != open_model_directory(tiny_model).digest


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: shutil.rmtree(model), "is not a directory"),
        (lambda model: (model / "bert_config.json").unlink(), r"cannot read .*bert_config\.json"),
        (lambda model: (model / "bert_config.json").write_text("{"), r"invalid .*bert_config\.json: not JSON"),
        (lambda model: (model / "bert_config.json").write_text("[]"), r"bert_config\.json: expected a JSON object"),
        (lambda model: (model / "bert_config.json").write_text("{}"), "missing .* required .*vocab_size"),
        (lambda model: change_config(model, hidden_act="swish"), "expected one of gelu, gelu_new, relu"),
        (lambda model: change_config(model, vocab_size=9), r"has \d+ tokens, but .*says vocab_size 9"),
        (lambda model: change_config(model, num_hidden_layers=4), "has no variable bert/encoder/layer_3/"),
        (
            lambda model: change_config(model, intermediate_size=8),
            r"shape of .*: \[16, 32\]; expected \[16, 8\]",
        ),
        (lambda model: (model / "vocab.txt").unlink(), r"invalid vocabulary .*vocab\.txt"),
        (lambda model: (model / "vocab.txt").write_bytes(b"\xff\xfe"), r"invalid vocabulary .*vocab\.txt"),
        (lambda model: (model / "checkpoint").write_text("nothing"), "has no line model_checkpoint_path"),
        (
            lambda model: (model / "model.ckpt-1.index").unlink(),
            r"names model\.ckpt-1, but .* does not exist",
        ),
    ],
)
def test_an_error_names_what_is_wrong(model: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(model)

    with pytest.raises(ModelError, match=message):
        open_model_directory(model)


def test_without_a_state_file_there_must_be_one_checkpoint(model: Path) -> None:
    (model / "checkpoint").unlink()
    for state in model.glob("state-*"):
        state.unlink()
    assert find_checkpoint(model) == model / "model.ckpt-1"
    shutil.copy(model / "model.ckpt-1.index", model / "model.ckpt-2.index")

    with pytest.raises(ModelError, match=r"found model\.ckpt-1\.index, model\.ckpt-2\.index"):
        find_checkpoint(model)
