"""What a training run is told: a TOML file, written as a document (see configs/), read into a dataclass.

An unknown key is an error that names the known ones: a misspelt setting must not silently train another
model.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

# What may change while a run is interrupted: it has no part in what is learned.
ANY_TIME = ("steps_per_loop", "save_checkpoints_steps", "log_steps")
CHOICES = {
    "optimizer": ("adamw", "lamb"),
    "masks": ("static", "dynamic"),
    "kernel_dtype": ("auto", "float32", "bfloat16"),
}


@dataclass(frozen=True)
class TrainConfig:
    """One run. `model` holds fields of bert_config.json; vocab_size comes from the examples' vocabulary."""

    model: Mapping[str, Any] = field(default_factory=dict)
    init_checkpoint: str | None = None  # prefix of a checkpoint to continue from; None: random weights
    batch_size: int = 64  # of a step, over all replicas
    micro_batch_size: int | None = None  # a batch that is too large for memory is computed in parts of this size
    optimizer: str = "adamw"  # or "lamb"
    learning_rate: float = 1e-4  # the peak, at the end of the warm-up
    num_train_steps: int = 10_000
    num_warmup_steps: int = 500
    weight_decay_rate: float = 0.01
    masks: str = "static"  # as they are in the examples, or "dynamic": new ones in every epoch
    kernel_dtype: str = "auto"  # of matrix products, all else is float32; bfloat16 on TPU and GPU, float32 on CPU
    steps_per_loop: int = 1  # on the device without a word; a signal is heeded, and progress shown, in between
    save_checkpoints_steps: int = 500
    log_steps: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        counts = ("batch_size", "micro_batch_size", "num_train_steps", *ANY_TIME)
        for name in counts:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "weight_decay_rate", "num_warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a number from 0 on")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if self.num_warmup_steps >= self.num_train_steps:
            raise ValueError(
                f"num_warmup_steps is {self.num_warmup_steps}; it must be below num_train_steps, {self.num_train_steps}"
            )

    def on(self, *, fast_bfloat16: bool) -> TrainConfig:
        """The config with kernel_dtype chosen for a device."""
        if self.kernel_dtype != "auto":
            return self
        return replace(self, kernel_dtype="bfloat16" if fast_bfloat16 else "float32")

    def micro_batches(self, replicas: int) -> int:
        """How many micro-batches each of so many replicas computes for a step."""
        size = self.micro_batch_size or max(1, self.batch_size // replicas)
        if self.batch_size % (size * replicas):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared out: it must be a multiple of {replicas} replicas "
                f"with micro-batches of {size}"
            )
        return self.batch_size // (size * replicas)


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The run that a TOML file describes, changed by `key=value` and `model.key=value`.

    Raises ValueError that names the file or the override, and the fault.
    """
    source = str(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            source = f"--set {override}"
            _merge(values, _override(override))
            _config(values)  # so that the error names the override at fault
        return _config(values)
    except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None


def _config(values: dict[str, Any]) -> TrainConfig:
    known = {f.name for f in fields(TrainConfig)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return TrainConfig(**values)


def _override(text: str) -> dict[str, Any]:
    """`key=value` as TOML has it, except that a word needs no quotes."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError("expected key=value")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        return tomllib.loads(f"{key} = {json.dumps(value)}")


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.setdefault(key, {}), dict):
            _merge(values[key], value)
        else:
            values[key] = value
