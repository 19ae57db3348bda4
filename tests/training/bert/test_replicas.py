"""One, two and eight replicas compute the same run, because a batch does not depend on the number of devices."""

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
COUNTS = (2, 8)
# How a processor is divided must be said before TensorFlow uses it, and a process has one way to add up: so each count
# has a process of its own.
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
    "batch_size=16",
    "micro_batch_size=2",
    "masks=dynamic",
    "learning_rate=1e-3",
    f"num_train_steps={STEPS}",
    "save_checkpoints_steps=4",
    "steps_per_loop=3",
]


@pytest.fixture(scope="module")
def runs(tiny_toml: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the workdirs `1`, `2` and `8`."""
    output = tmp_path_factory.mktemp("replicas")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    processes = []
    for count in COUNTS:
        arguments = [str(tiny_toml), str(examples), str(output / str(count)), str(count), *OVERRIDES]
        command = [sys.executable, "-c", PROGRAM, *arguments]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    train(read_config(tiny_toml, OVERRIDES), output / "1", examples)
    for process in processes:
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
    return output


def rows_of(workdir: Path) -> list[dict[str, float]]:
    rows = [json.loads(row) for row in (workdir / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_s"} for row in rows]


@pytest.mark.parametrize("count", COUNTS)
def test_replicas_log_the_same_numbers(runs: Path, count: int) -> None:
    """Dropout and dynamic masks are included; only the order of additions differs."""
    for row, other in zip(rows_of(runs / "1"), rows_of(runs / str(count)), strict=True):
        assert other == pytest.approx(row, abs=1e-6, rel=1e-6)
    assert len(rows_of(runs / "1")) == STEPS


@pytest.mark.parametrize("count", COUNTS)
def test_replicas_end_with_the_same_weights(runs: Path, count: int) -> None:
    """The exception is a bias that softmax ignores, and which therefore depends on rounding alone."""
    one, other = (read_checkpoint(runs / str(n) / f"model.ckpt-{STEPS}") for n in (1, count))
    worst = max(np.abs(one[name] - other[name]).max() for name in one if not name.endswith("key/bias"))
    assert worst <= 1e-6


def test_a_checkpoint_does_not_tell_how_many_replicas_made_it(runs: Path) -> None:
    assert checkpoint.list_steps(runs / "8") == checkpoint.list_steps(runs / "1") == [0, 4, 6]
