"""Exports the model of a run's workdir, or a model directory, in one of three formats.

tensorflow    `models/<name>/`, with exactly the files that the service and bert-as-service need
huggingface   a directory for transformers and sentence-transformers (`huggingface.py`)
onnx          a file for ONNX Runtime (`onnx.py`)

Output is written under a temporary name beside its destination and renamed when it is complete, so a reader sees the
old model or the new one, never an incomplete one. Only weights are exported; optimizer moments stay in the workdir.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from service.model_directory import BertConfig, ModelDirectory, Shapes, encoder_shapes, open_model_directory
from training.bert import checkpoint
from training.bert.huggingface import write_huggingface
from training.bert.onnx import write_onnx
from training.files import temporary_name, write_text

FORMATS = ("tensorflow", "huggingface", "onnx")
MODEL_CARD, LICENSE = "README.md", "LICENSE"


def export(
    workdir: Path | None,
    output: Path,
    *,
    model: Path | None = None,
    layout: str = "tensorflow",
    step: int | None = None,
    mix: Path | None = None,
    mix_share: float = 0.5,
) -> Path:
    """Writes the model of a step of a workdir (default: the newest), or a model directory, to `output`.

    Returns the path that was written; in the format tensorflow, the prefix of the checkpoint. An older model at
    `output` is replaced, except for its README.md and LICENSE, which a person wrote. Raises FileNotFoundError or
    ValueError for a workdir, a step, an output or weights that cannot be exported.
    """
    if layout not in FORMATS:
        raise ValueError(f"invalid format: {layout!r}; expected one of {', '.join(FORMATS)}")
    if (workdir is None) == (model is None):
        raise ValueError("expected either workdir, the folder of a run, or model, a model directory")
    output = output.resolve()  # a symbolic link keeps its target
    check_replaceable(output, is_file=layout == "onnx")
    shapes = _choose_shapes(layout)
    if workdir is None:
        assert model is not None
        prefix, opened = Path(model.name), open_model_directory(model, shapes)
    else:
        prefix = _find_checkpoint(workdir, step)
        opened = open_model_directory(workdir, shapes, prefix=prefix)
    if mix:
        opened = _mix(opened, mix, mix_share, shapes)
    for name, values in opened.weights.items():
        if not np.isfinite(values).all():
            raise ValueError(f"invalid weights in {prefix}: {name} is not finite; export an earlier step")

    output.parent.mkdir(parents=True, exist_ok=True)
    if layout == "onnx":
        with temporary_name(output) as temporary:
            write_onnx(opened, temporary)
        return output
    source = output if (output / MODEL_CARD).exists() or model is None else model
    if layout == "huggingface":
        _write_directory(output, source, lambda directory: write_huggingface(opened, directory))
        return output
    _write_directory(output, source, lambda directory: _write_tensorflow(opened, directory))
    return output / opened.checkpoint


def _choose_shapes(layout: str) -> Callable[[BertConfig], Shapes]:
    if layout != "tensorflow":
        return encoder_shapes
    from training.bert.model import variable_shapes  # imported late: needs TensorFlow

    return variable_shapes


def _write_tensorflow(model: ModelDirectory, directory: Path) -> None:
    write_text(directory / "bert_config.json", model.config.to_json())
    write_text(directory / "vocab.txt", "\n".join(model.tokenizer.vocab) + "\n")
    checkpoint.write(directory / model.checkpoint, model.weights)
    checkpoint.mark_latest(directory, model.checkpoint)


def _write_directory(output: Path, source: Path, write: Callable[[Path], None]) -> None:
    """Writes a whole directory, with the README.md and LICENSE of `source`, if it has them."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        write(temporary)
        for name in (MODEL_CARD, LICENSE):
            if (source / name).exists():
                shutil.copyfile(source / name, temporary / name)
        _replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _mix(
    model: ModelDirectory, directory: Path, share: float, shapes: Callable[[BertConfig], Shapes]
) -> ModelDirectory:
    """Returns the mean of the weights of two models of one lineage; the other one has `share` (arXiv 2203.05482)."""
    other = open_model_directory(directory, shapes)
    if not 0 <= share <= 1:
        raise ValueError(f"invalid mix_share: {share}; expected a number from 0 to 1")
    if not model.can_be_averaged_with(other):
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


def check_replaceable(output: Path, *, is_file: bool) -> None:
    """Raises ValueError, before any work is done, if `output` exists and is not an exported model."""
    if not output.exists():
        return
    if output.is_dir() == is_file:
        raise ValueError(
            f"invalid output: {output} is a {'directory' if is_file else 'file'}; expected a "
            f"{'file' if is_file else 'directory'}"
        )
    if is_file:
        return
    if (output / "run.json").exists():
        raise ValueError(f"invalid output: {output} is the workdir of a run; expected another directory")
    if not any((output / name).exists() for name in ("bert_config.json", "config.json")):
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
