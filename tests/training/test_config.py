"""A config is valid or refused; command-line options override it."""

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
        ("batchsize = 8", "unknown setting batchsize; expected one of .*batch_size"),
        ("batch_size = 0", "invalid batch_size: 0; expected .* at least 1"),
        ('batch_size = "8"', "invalid batch_size: '8'; expected an integer"),
        ("batch_size = true", "invalid batch_size: True; expected an integer"),
        ("seed = 1.5", "invalid seed: 1.5; expected an integer"),
        ('learning_rate = "high"', "invalid learning_rate: 'high'; expected a number"),
        ("init_checkpoint = 1", "invalid init_checkpoint: 1; expected a string"),
        ("model = 1", "invalid model: 1; expected a table"),
        ("learning_rate = -1.0", "invalid learning_rate: -1.0; expected .* at least 0"),
        ("learning_rate = nan", "invalid learning_rate: nan; expected .* at least 0"),
        ('kernel_dtype = "float16"', "invalid kernel_dtype: 'float16'"),
        ('optimizer = "sgd"', "invalid optimizer: 'sgd'; expected one of adamw, corrected_adamw, lamb"),
        ('masks = "none"', "invalid masks: 'none'; expected one of static, dynamic"),
        ("micro_batch_size = 0", "invalid micro_batch_size: 0"),
        (
            "num_train_steps = 10\nnum_warmup_steps = 10",
            "invalid num_warmup_steps: 10; expected less than .* 10",
        ),
        ("batch_size = ", "Invalid value"),
    ],
)
def test_an_invalid_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The error is one sentence that names the file and the setting."""
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"wrong\.toml: .*{message}"):
        read_config(path)


def test_settings_can_be_changed_on_the_command_line(tiny_toml: Path) -> None:
    """Values are numbers, unquoted words and fields of the model; other settings stay."""
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
        ("batchsize=8", "--set batchsize=8: unknown setting batchsize; expected one of .*batch_size"),
        ("batch_size", "--set batch_size: expected key=value"),
        ("batch_size=0", "--set batch_size=0: invalid batch_size: 0"),
        ("batch_size=abc", "--set batch_size=abc: invalid batch_size: 'abc'; expected an integer"),
    ],
)
def test_an_invalid_override_is_refused(tiny_toml: Path, override: str, message: str) -> None:
    """The error names the override, not the file."""
    with pytest.raises(ValueError, match=message):
        read_config(tiny_toml, ["learning_rate=1e-3", override])


def test_a_batch_must_be_divisible() -> None:
    """Replicas and their micro-batches have equal parts."""
    assert TrainConfig(batch_size=64).micro_batches(8) == 1
    assert TrainConfig(batch_size=64, micro_batch_size=4).micro_batches(8) == 2
    with pytest.raises(ValueError, match="expected a multiple of 63, for 3 replicas with micro-batches of 21"):
        TrainConfig(batch_size=64).micro_batches(3)


CONFIGS = sorted((REPOSITORY / "training/configs").glob("*.toml"))
OF_ALIGN = [
    path
    for path in CONFIGS
    if path.stem.endswith(("-moments", "-pairs", "-tasks", "-last", "-long", "-ngrams", "update"))
]


@pytest.mark.parametrize("path", OF_ALIGN, ids=lambda p: p.stem)
def test_every_config_of_align_is_valid(path: Path) -> None:
    assert isinstance(read_align_config(path), AlignConfig)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in OF_ALIGN], ids=lambda p: p.stem)
def test_every_bundled_config_is_valid(path: Path) -> None:
    """It describes a model that can be built."""
    config = read_config(path)
    assert isinstance(config, TrainConfig)
    BertConfig(**{**config.model, "vocab_size": 100})
