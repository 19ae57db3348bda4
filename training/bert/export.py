"""From a run's workdir to `models/<name>/`: what the service and bert-as-service need, and no more.

The directory is made under a temporary name beside its place and renamed when it is whole and checked, so a
reader sees the old model or the new one, never half of one. Only weights are exported; optimizer moments stay
in the workdir.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from service.model_directory import open_model_directory
from training.bert import checkpoint
from training.bert.model import variable_shapes
from training.files import write_text

MODEL_CARD = "README.md"


def export(workdir: Path, output: Path, *, step: int | None = None) -> Path:
    """Writes the model of a step (default: the newest) to `output`; returns its checkpoint's prefix there.

    An older model at `output` is replaced whole, except that its README.md, written by a person, is carried
    over. Raises FileNotFoundError or ValueError for a workdir, a step, an output or weights that cannot be
    exported.
    """
    output = output.resolve()  # a link keeps pointing where it does
    _check_replaceable(output)
    prefix = _checkpoint_of(workdir, step)
    model = open_model_directory(workdir, variable_shapes, prefix=prefix)
    for name, values in model.weights.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{prefix}: {name} is not finite, so the model is lost; export an earlier step")

    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        write_text(temporary / "bert_config.json", model.config.to_json())
        write_text(temporary / "vocab.txt", "\n".join(model.tokenizer.vocab) + "\n")
        checkpoint.write(temporary / prefix.name, model.weights)
        checkpoint.name_latest(temporary, prefix.name)
        if (output / MODEL_CARD).exists():
            shutil.copy2(output / MODEL_CARD, temporary / MODEL_CARD)
        _replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return output / prefix.name


def _checkpoint_of(workdir: Path, step: int | None) -> Path:
    latest, steps = checkpoint.latest_step(workdir), checkpoint.saved_steps(workdir)
    if latest is None:
        raise FileNotFoundError(f"{workdir} holds no checkpoint: expected the --workdir of a `danmaku-train train`")
    if step is not None and step not in steps:
        raise ValueError(f"{workdir} has no step {step}; it has {', '.join(map(str, steps))}")
    return workdir / f"{checkpoint.MODEL}-{latest if step is None else step}"


def _check_replaceable(output: Path) -> None:
    """Refuses to replace what is not an exported model, before any work is done."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"{output} is a file: expected the directory to make")
    if (output / "run.json").exists():
        raise ValueError(f"{output} is the workdir of a training run: export to another directory")
    if not (output / "bert_config.json").exists():
        raise ValueError(f"{output} exists and is no model directory (it has no bert_config.json): not replaced")


def _replace(temporary: Path, output: Path) -> None:
    """Puts the directory in its place. No rename can replace a full one, so the old one steps aside."""
    if not output.exists():
        os.rename(temporary, output)
        return
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    os.rename(output, old)
    try:
        os.rename(temporary, output)
    except OSError:
        os.rename(old, output)
        raise
    shutil.rmtree(old)
