"""A config says what it means or is refused; the command line may change it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.model_directory import BertConfig
from training.config import AlignConfig, TrainConfig, read_align_config, read_config

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 8", "unknown setting batchsize; known are .*batch_size"),
        ("batch_size = 0", "batch_size is 0"),
        ('batch_size = "8"', "not supported between"),
        ("learning_rate = -1.0", "learning_rate is -1.0"),
        ('kernel_dtype = "float16"', "kernel_dtype is 'float16'"),
        ('optimizer = "sgd"', "optimizer is 'sgd'; it must be one of adamw, lamb"),
        ('masks = "none"', "masks is 'none'; it must be one of static, dynamic"),
        ("micro_batch_size = 0", "micro_batch_size is 0"),
        ("num_train_steps = 10\nnum_warmup_steps = 10", "num_warmup_steps is 10; it must be below .* 10"),
        ("batch_size = ", "Invalid value"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """In one sentence that names the file and the setting."""
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"wrong\.toml: .*{message}"):
        read_config(path)


def test_settings_can_be_changed_on_the_command_line(tiny_toml: Path) -> None:
    """Numbers, words without quotes, fields of the model; what is not named stays."""
    changes = ["batch_size=32", "optimizer=lamb", "model.hidden_dropout_prob=0.2", "learning_rate=1e-3"]
    config, changed = read_config(tiny_toml), read_config(tiny_toml, changes)
    assert changed == replace(
        config,
        batch_size=32,
        optimizer="lamb",
        learning_rate=1e-3,
        model={**config.model, "hidden_dropout_prob": 0.2},
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batchsize=8", "--set batchsize=8: unknown setting batchsize; known are .*batch_size"),
        ("batch_size", "--set batch_size: expected key=value"),
        ("batch_size=0", "--set batch_size=0: batch_size is 0"),
        ("batch_size=many", "--set batch_size=many: .*not supported between"),
    ],
)
def test_an_override_that_cannot_be_meant_is_refused(tiny_toml: Path, override: str, message: str) -> None:
    """The error names it, not the file."""
    with pytest.raises(ValueError, match=message):
        read_config(tiny_toml, ["learning_rate=1e-3", override])


def test_a_batch_is_shared_out_evenly_or_not_at_all() -> None:
    """Over replicas, and over the micro-batches of each."""
    assert TrainConfig(batch_size=64).micro_batches(8) == 1
    assert TrainConfig(batch_size=64, micro_batch_size=4).micro_batches(8) == 2
    with pytest.raises(ValueError, match="must be a multiple of 3 replicas with micro-batches of 21"):
        TrainConfig(batch_size=64).micro_batches(3)


CONFIGS = sorted((REPOSITORY / "training/configs").glob("*.toml"))
OF_ALIGN = [path for path in CONFIGS if path.stem.endswith(("-align", "-pairs"))]


@pytest.mark.parametrize("path", OF_ALIGN, ids=lambda p: p.stem)
def test_every_config_of_align_can_be_read(path: Path) -> None:
    assert isinstance(read_align_config(path), AlignConfig)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in OF_ALIGN], ids=lambda p: p.stem)
def test_every_config_that_ships_can_be_read(path: Path) -> None:
    """And describes a model that can be built."""
    config = read_config(path)
    assert isinstance(config, TrainConfig)
    BertConfig(**{**config.model, "vocab_size": 100})
