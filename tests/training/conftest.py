"""One pass through the pipeline on invented danmaku, shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # as the commands start it
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def danmaku() -> Path:
    """Twelve CSV files of invented danmaku."""
    return REPOSITORY / "tests/data/danmaku"


@pytest.fixture(scope="session")
def tiny_toml() -> Path:
    return REPOSITORY / "training/configs/tiny.toml"


@pytest.fixture(scope="session")
def corpus(danmaku: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus that `clean` writes from them."""
    from training.corpus.clean import clean

    output = tmp_path_factory.mktemp("corpus")
    clean([danmaku], output, vocab_size=300, heldout=0.2)
    return output


@pytest.fixture(scope="session")
def examples(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples of that corpus: several shards of sequences of 32 tokens."""
    from training.examples.records import write_examples
    from training.examples.settings import ExampleSettings

    output = tmp_path_factory.mktemp("examples")
    write_examples(corpus, output, ExampleSettings(max_seq_length=32), lines_per_shard=150)
    return output


@pytest.fixture(scope="session")
def workdir(tiny_toml: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir of a run with tiny.toml on those examples."""
    from training.bert.train import train
    from training.config import read_config

    output = tmp_path_factory.mktemp("run")
    train(read_config(tiny_toml), output, examples)
    return output


@pytest.fixture(scope="session")
def models(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model before and after training."""
    from training.bert.export import export

    output = tmp_path_factory.mktemp("models")
    export(workdir, output / "before", step=0)
    export(workdir, output / "after")
    return output / "before", output / "after"
