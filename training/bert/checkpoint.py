"""Writes checkpoints in TensorFlow's own format, with exactly the variables of google-research/bert.

`tf.raw_ops.SaveV2` writes tensors under the names it is given; `tf.train.Checkpoint` would rename them, and no BERT
code could load the file. Optimizer moments, which only a resumed run needs, are written to a second file, so the first
can be published unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.model_directory import find_checkpoint
from training.files import write_text

MODEL, STATE = "model.ckpt", "state"
FILES = ("index", "data-00000-of-00001")
LATEST = "checkpoint"  # the file in which TensorFlow programs look up the newest checkpoint of a directory


def save(directory: Path, step: int, model: Mapping[str, Any], state: Mapping[str, Any], *, keep: int = 2) -> None:
    """Writes model.ckpt-STEP and state-STEP and marks them as the latest; keeps the first and the last `keep`.

    TensorFlow writes each file under a temporary name, and the latest is marked last. So a run that is killed at any
    moment resumes from a complete pair.
    """
    write(directory / f"{STATE}-{step}", state)
    write(directory / f"{MODEL}-{step}", model)
    mark_latest(directory, f"{MODEL}-{step}")
    steps = list_steps(directory)
    # A run that is killed between writing and marking a checkpoint leaves one that is later than the step it resumes
    # from.
    abandoned = [other for other in steps if other > step]
    past = [other for other in steps if other <= step]
    for old in past[1:-keep] + abandoned:
        _remove(directory / f"{MODEL}-{old}")
    for old in past[:-1] + abandoned:
        _remove(directory / f"{STATE}-{old}")


def write(prefix: Path, tensors: Mapping[str, Any]) -> None:
    """Writes one checkpoint, `prefix`.index and its data file, with the tensors under their names."""
    import tensorflow as tf  # here, because other formats are exported without it

    names = sorted(tensors)
    values = [tf.convert_to_tensor(tensors[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)


def mark_latest(directory: Path, name: str) -> None:
    """Makes `tf.train.latest_checkpoint` return `name`; relative, so the directory can be moved.

    The format is the text form of TensorFlow's CheckpointState (checkpoint_state.proto).
    """
    fields = ("model_checkpoint_path", "all_model_checkpoint_paths")
    write_text(directory / LATEST, "".join(f'{field}: "{name}"\n' for field in fields))


def latest_step(directory: Path) -> int | None:
    """Returns the step of the newest complete checkpoint of a run; None if there is none yet."""
    if not (directory / LATEST).exists():
        return None
    name = find_checkpoint(directory).name
    if not (match := re.fullmatch(rf"{re.escape(MODEL)}-(\d+)", name)):
        raise ValueError(f"invalid {directory / LATEST}: it names {name!r}; expected {MODEL}-STEP")
    return int(match[1])


def list_steps(directory: Path) -> list[int]:
    """Returns the steps of a run that have a checkpoint, in order."""
    steps = (path.stem.removeprefix(f"{MODEL}-") for path in directory.glob(f"{MODEL}-*.index"))
    return sorted(int(step) for step in steps if step.isdecimal())


def _remove(prefix: Path) -> None:
    for suffix in FILES:
        prefix.with_name(f"{prefix.name}.{suffix}").unlink(missing_ok=True)
