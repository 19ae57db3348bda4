"""One replica, two and eight compute the same run: a batch is a batch, however many devices share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.checkpoint import read_checkpoint
from training import checkpoint

REPOSITORY = Path(__file__).parents[2]
STEPS = 6
COUNTS = (1, 2, 8)
# How a machine is divided must be said before TensorFlow uses it, so this needs a process of its own.
PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import tensorflow as tf
from training.config import read_config
from training.train import train

toml, examples, output = map(Path, sys.argv[1:4])
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 8)
config = replace(
    read_config(toml), batch_size=16, micro_batch_size=2, num_train_steps=6, save_checkpoints_steps=4,
    steps_per_loop=3, learning_rate=1e-3, masks="dynamic",
)
for count in (1, 2, 8):
    devices = [f"CPU:{index}" for index in range(count)]
    strategy = tf.distribute.MirroredStrategy(devices) if count > 1 else None
    train(config, output / str(count), examples, strategy=strategy)
# Begun on eight, continued on one.
train(replace(config, num_train_steps=6), output / "8", examples)
"""


@pytest.fixture(scope="module")
def runs(tiny_toml: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("replicas")
    command = [sys.executable, "-c", PROGRAM, str(tiny_toml), str(examples), str(output)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return output


def rows_of(workdir: Path) -> list[dict[str, float]]:
    rows = [json.loads(row) for row in (workdir / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_s"} for row in rows]


@pytest.mark.parametrize("count", COUNTS[1:])
def test_replicas_pass_through_the_same_numbers(runs: Path, count: int) -> None:
    """Every number of every step, dropout and dynamic masks included; only the order of additions differs."""
    for row, other in zip(rows_of(runs / "1"), rows_of(runs / str(count)), strict=True):
        assert other == pytest.approx(row, abs=1e-6, rel=1e-6)
    assert len(rows_of(runs / "1")) == STEPS


@pytest.mark.parametrize("count", COUNTS[1:])
def test_replicas_end_with_the_same_weights(runs: Path, count: int) -> None:
    """Save a bias that softmax takes no notice of, and which therefore follows rounding alone."""
    one, other = (read_checkpoint(runs / str(n) / f"model.ckpt-{STEPS}") for n in (1, count))
    worst = max(np.abs(one[name] - other[name]).max() for name in one if not name.endswith("key/bias"))
    assert worst <= 1e-6


def test_a_checkpoint_does_not_tell_how_many_replicas_made_it(runs: Path) -> None:
    assert checkpoint.saved_steps(runs / "8") == checkpoint.saved_steps(runs / "1") == [0, 4, 6]
