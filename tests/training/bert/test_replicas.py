"""One replica and eight compute the same run, because a batch does not depend on the number of devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.checkpoint import read_checkpoint
from training.bert import checkpoint
from training.bert.train import train
from training.config import read_config

REPOSITORY = Path(__file__).parents[3]
STEPS = 6
COUNT = 8  # each with two micro-batches
# How a processor is divided must be said before TensorFlow uses it, so several replicas have a process of their own.
PROGRAM = """
import sys
from pathlib import Path
import tensorflow as tf
from training.config import read_config
from training.bert.train import train

toml, examples, workdir, count, *overrides = sys.argv[1:]
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(count))
strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(int(count))])
train(read_config(Path(toml), overrides), Path(workdir), Path(examples), strategy=strategy)
"""
OVERRIDES = [
    "model.num_hidden_layers=1",
    "batch_size=32",
    "micro_batch_size=2",
    "masks=dynamic",
    "learning_rate=1e-3",
    f"num_train_steps={STEPS}",
    "save_checkpoints_steps=4",
    "steps_per_loop=3",
]


@pytest.fixture(scope="module")
def runs(tiny_toml: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the workdirs `one` and `several`."""
    output = tmp_path_factory.mktemp("replicas")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    arguments = [str(tiny_toml), str(examples), str(output / "several"), str(COUNT), *OVERRIDES]
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    train(read_config(tiny_toml, OVERRIDES), output / "one", examples)
    _, errors = process.communicate(timeout=550)
    assert process.returncode == 0, errors
    return output


def rows_of(workdir: Path) -> list[dict[str, float]]:
    rows = [json.loads(row) for row in (workdir / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_s"} for row in rows]


def test_replicas_log_the_same_numbers(runs: Path) -> None:
    """Dropout and dynamic masks are included; only the order of additions differs."""
    for row, other in zip(rows_of(runs / "one"), rows_of(runs / "several"), strict=True):
        assert other == pytest.approx(row, abs=1e-6, rel=1e-6)
    assert len(rows_of(runs / "one")) == STEPS


def test_replicas_end_with_the_same_weights(runs: Path) -> None:
    """The exception is a bias that softmax ignores, and which therefore depends on rounding alone."""
    one, other = (read_checkpoint(runs / name / f"model.ckpt-{STEPS}") for name in ("one", "several"))
    worst = max(np.abs(one[name] - other[name]).max() for name in one if not name.endswith("key/bias"))
    assert worst <= 1e-6


def test_a_checkpoint_does_not_tell_how_many_replicas_made_it(runs: Path) -> None:
    assert checkpoint.list_steps(runs / "several") == checkpoint.list_steps(runs / "one") == [0, 4, 6]
