"""Checkpoints in TensorFlow's own format, with exactly the variables of google-research/bert in them.

`tf.raw_ops.SaveV2` writes tensors under the names it is given; `tf.train.Checkpoint` would rename them, and then no
BERT code could load the file. What only a resumed run needs (optimizer moments) goes to a second file beside the first,
so that the first can be published as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

MODEL, STATE = "model.ckpt", "state"
FILES = ("index", "data-00000-of-00001")


def save(directory: Path, step: int, model: Mapping[str, Any], state: Mapping[str, Any], *, keep: int = 2) -> None:
    """Writes model.ckpt-STEP and state-STEP, then names them the latest; drops all but the first and the last `keep`.

    TensorFlow writes each file under a temporary name; the latest is renamed last. So a run killed at any moment
    resumes from a whole pair.
    """
    _write(directory / f"{STATE}-{step}", state)
    _write(directory / f"{MODEL}-{step}", model)
    tf.compat.v1.train.update_checkpoint_state(str(directory), f"{MODEL}-{step}")
    steps = saved_steps(directory)
    for old in steps[1:-keep]:
        _remove(directory / f"{MODEL}-{old}")
    for old in steps[:-1]:
        _remove(directory / f"{STATE}-{old}")


def latest_step(directory: Path) -> int | None:
    """The step of the newest whole checkpoint, or None."""
    latest = tf.train.latest_checkpoint(str(directory))
    return int(latest.rsplit("-", 1)[1]) if latest else None


def saved_steps(directory: Path) -> list[int]:
    return sorted(int(path.stem.rsplit("-", 1)[1]) for path in directory.glob(f"{MODEL}-*.index"))


def load(prefix: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint by name. `prefix` is the path without .index."""
    if not prefix.with_name(prefix.name + ".index").exists():
        raise FileNotFoundError(f"{prefix}.index does not exist: expected the prefix of a TensorFlow checkpoint")
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def _write(prefix: Path, tensors: Mapping[str, Any]) -> None:
    names = sorted(tensors)
    values = [tf.convert_to_tensor(tensors[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)


def _remove(prefix: Path) -> None:
    for suffix in FILES:
        prefix.with_name(f"{prefix.name}.{suffix}").unlink(missing_ok=True)
