"""Exports the model of a run's workdir to `models/<name>/`, with exactly what the service and bert-as-service need.

The directory is written under a temporary name beside its destination and renamed when it is complete and checked, so a
reader sees the old model or the new one, never a part of one. Only weights are exported; optimizer moments stay in the
workdir.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from service.model_directory import ModelDirectory, open_model_directory
from training.bert import checkpoint
from training.bert.model import variable_shapes
from training.files import write_text

MODEL_CARD = "README.md"


def export(
    workdir: Path, output: Path, *, step: int | None = None, mix: Path | None = None, mix_share: float = 0.5
) -> Path:
    """Writes the model of a step (default: the newest) to `output`; returns the prefix of its checkpoint there.

    An older model at `output` is replaced, except for its README.md, which a person wrote. Raises FileNotFoundError or
    ValueError for a workdir, a step, an output or weights that cannot be exported.
    """
    output = output.resolve()  # a symbolic link keeps its target
    _check_replaceable(output)
    prefix = _find_checkpoint(workdir, step)
    model = open_model_directory(workdir, variable_shapes, prefix=prefix)
    if mix:
        model = _mix(model, mix, mix_share)
    for name, values in model.weights.items():
        if not np.isfinite(values).all():
            raise ValueError(f"invalid weights in {prefix}: {name} is not finite; export an earlier step")

    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        write_text(temporary / "bert_config.json", model.config.to_json())
        write_text(temporary / "vocab.txt", "\n".join(model.tokenizer.vocab) + "\n")
        checkpoint.write(temporary / prefix.name, model.weights)
        checkpoint.mark_latest(temporary, prefix.name)
        if (output / MODEL_CARD).exists():
            shutil.copy2(output / MODEL_CARD, temporary / MODEL_CARD)
        _replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return output / prefix.name


def _mix(model: ModelDirectory, directory: Path, share: float) -> ModelDirectory:
    """Returns the mean of the weights of two models of one lineage; the other one has `share` (arXiv 2203.05482)."""
    other = open_model_directory(directory, variable_shapes)
    if not 0 <= share <= 1:
        raise ValueError(f"invalid mix_share: {share}; expected a number from 0 to 1")
    if other.config != model.config or other.tokenizer.vocab != model.tokenizer.vocab:
        raise ValueError(f"invalid mix: {directory} has another shape or vocabulary; expected those of the run")
    weights = {name: (1 - share) * values + share * other.weights[name] for name, values in model.weights.items()}
    return replace(model, weights={name: values.astype(np.float32) for name, values in weights.items()})


def _find_checkpoint(workdir: Path, step: int | None) -> Path:
    latest, steps = checkpoint.latest_step(workdir), checkpoint.list_steps(workdir)
    if latest is None:
        raise FileNotFoundError(f"no checkpoint in {workdir}; expected the --workdir of `danmaku-train train`")
    if step is not None and step not in steps:
        raise ValueError(f"invalid step: {step}; {workdir} has {', '.join(map(str, steps))}")
    return workdir / f"{checkpoint.MODEL}-{latest if step is None else step}"


def _check_replaceable(output: Path) -> None:
    """Raises ValueError, before any work is done, if `output` exists and is not an exported model."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"invalid output: {output} is a file; expected a directory")
    if (output / "run.json").exists():
        raise ValueError(f"invalid output: {output} is the workdir of a run; expected another directory")
    if not (output / "bert_config.json").exists():
        raise ValueError(
            f"invalid output: {output} exists without a bert_config.json; expected a model directory, or a new one"
        )


def _replace(temporary: Path, output: Path) -> None:
    """Moves the directory to its place, after the old one, which a rename cannot replace."""
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
