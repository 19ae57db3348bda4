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

import numpy as np
import tensorflow as tf

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
    name = find(directory).name
    if not (match := re.fullmatch(rf"{re.escape(MODEL)}-(\d+)", name)):
        raise ValueError(f"{directory / LATEST} names {name}; a run's checkpoints are called {MODEL}-STEP")
    return int(match[1])


def saved_steps(directory: Path) -> list[int]:
    """The steps of which a run's directory holds a checkpoint, in order."""
    steps = (path.stem.removeprefix(f"{MODEL}-") for path in directory.glob(f"{MODEL}-*.index"))
    return sorted(int(step) for step in steps if step.isdecimal())


def find(directory: Path) -> Path:
    """The prefix of a directory's checkpoint: what its file `checkpoint` names, else the only one there."""
    if (directory / LATEST).exists():
        text = (directory / LATEST).read_text(encoding="utf-8")
        match = re.search(r'^model_checkpoint_path: "(.+)"$', text, re.MULTILINE)
        if not match:
            raise ValueError(f"{directory / LATEST} has no line model_checkpoint_path")
        # Some programs write whole paths there, which are wrong once the directory has moved.
        prefix = directory / Path(match[1]).name
        if not prefix.with_name(f"{prefix.name}.index").exists():
            raise FileNotFoundError(f"{directory / LATEST} names {prefix.name}, but {prefix}.index does not exist")
        return prefix
    found = sorted(directory.glob("*.index"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{directory} has no file `{LATEST}` and not one *.index, but {names}")
    return found[0].with_suffix("")


def load(prefix: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint by name. `prefix` is the path without .index."""
    if not prefix.with_name(f"{prefix.name}.index").exists():
        raise FileNotFoundError(f"{prefix}.index does not exist: expected the prefix of a TensorFlow checkpoint")
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, RuntimeError, IndexError) as error:  # the last: a data file cut short
        raise ValueError(f"{prefix} is not a whole checkpoint: {str(error).splitlines()[0]}") from None


def load_model(prefix: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The variables of a checkpoint that `shapes` names; ValueError for one that is missing or misshapen."""
    found = load(prefix)
    for name, shape in shapes.items():
        if name not in found:
            raise ValueError(f"{prefix} has no variable {name}")
        if found[name].shape != shape:
            raise ValueError(f"{prefix}: {name} is {list(found[name].shape)}, but the config wants {list(shape)}")
    return {name: found[name] for name in shapes}


def _remove(prefix: Path) -> None:
    for suffix in FILES:
        prefix.with_name(f"{prefix.name}.{suffix}").unlink(missing_ok=True)
