"""Checkpoints in TensorFlow's own format, with exactly the variables of google-research/bert in them.

`tf.raw_ops.SaveV2` writes tensors under the names it is given; `tf.train.Checkpoint` would rename them, and
then no BERT code could load the file. What only a resumed run needs (optimizer moments) goes to a second file
beside the first, so that the first can be published as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from service.model_directory import find_checkpoint
from training.files import write_text

MODEL, STATE = "model.ckpt", "state"
FILES = ("index", "data-00000-of-00001")
LATEST = "checkpoint"  # the file that names the newest checkpoint of a directory, for every TensorFlow program


def save(directory: Path, step: int, model: Mapping[str, Any], state: Mapping[str, Any], *, keep: int = 2) -> None:
    """Writes model.ckpt-STEP and state-STEP and names them the latest; keeps the first and the last `keep`.

    TensorFlow writes each file under a temporary name; the latest is renamed last. So a run killed at any
    moment resumes from a whole pair.
    """
    write(directory / f"{STATE}-{step}", state)
    write(directory / f"{MODEL}-{step}", model)
    name_latest(directory, f"{MODEL}-{step}")
    steps = saved_steps(directory)
    # A run killed between writing and naming a checkpoint leaves a later one than it resumes from: not the
    # newest.
    abandoned = [other for other in steps if other > step]
    past = [other for other in steps if other <= step]
    for old in past[1:-keep] + abandoned:
        _remove(directory / f"{MODEL}-{old}")
    for old in past[:-1] + abandoned:
        _remove(directory / f"{STATE}-{old}")


def write(prefix: Path, tensors: Mapping[str, Any]) -> None:
    """One checkpoint: `prefix`.index and its data file, the tensors under the names they have."""
    names = sorted(tensors)
    values = [tf.convert_to_tensor(tensors[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)


def name_latest(directory: Path, name: str) -> None:
    """Makes `name` what `tf.train.latest_checkpoint` finds; relative, so that the directory may be moved.

    The text form of TensorFlow's CheckpointState (checkpoint_state.proto).
    """
    fields = ("model_checkpoint_path", "all_model_checkpoint_paths")
    write_text(directory / LATEST, "".join(f'{field}: "{name}"\n' for field in fields))


def latest_step(directory: Path) -> int | None:
    """The step of the newest whole checkpoint of a run, or None before there is one."""
    if not (directory / LATEST).exists():
        return None
    name = find_checkpoint(directory).name
    if not (match := re.fullmatch(rf"{re.escape(MODEL)}-(\d+)", name)):
        raise ValueError(f"{directory / LATEST} names {name}; a run's checkpoints are called {MODEL}-STEP")
    return int(match[1])


def saved_steps(directory: Path) -> list[int]:
    """The steps of which a run's directory holds a checkpoint, in order."""
    steps = (path.stem.removeprefix(f"{MODEL}-") for path in directory.glob(f"{MODEL}-*.index"))
    return sorted(int(step) for step in steps if step.isdecimal())


def _remove(prefix: Path) -> None:
    for suffix in FILES:
        prefix.with_name(f"{prefix.name}.{suffix}").unlink(missing_ok=True)
