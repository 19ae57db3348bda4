"""What a training run is told: a TOML file, written as a document (see configs/), read into a dataclass.

An unknown key is an error that names the known ones: a misspelt setting must not silently train another
model.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


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
    kernel_dtype: str = "float32"  # of matrix products; weights, gradients and all else are float32
    save_checkpoints_steps: int = 500
    log_steps: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size", "num_train_steps", "save_checkpoints_steps", "log_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "weight_decay_rate", "num_warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a number from 0 on")
        if self.kernel_dtype not in ("float32", "bfloat16"):
            raise ValueError(f'kernel_dtype is {self.kernel_dtype!r}; it must be "float32" or "bfloat16"')
        if self.optimizer not in ("adamw", "lamb"):
            raise ValueError(f'optimizer is {self.optimizer!r}; it must be "adamw" or "lamb"')
        if self.num_warmup_steps >= self.num_train_steps:
            raise ValueError(
                f"num_warmup_steps is {self.num_warmup_steps}; it must be below num_train_steps, {self.num_train_steps}"
            )

    def micro_batches(self, replicas: int) -> int:
        """How many micro-batches each of so many replicas computes for a step."""
        size = self.micro_batch_size or max(1, self.batch_size // replicas)
        if self.batch_size % (size * replicas):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared out: it must be a multiple of {replicas} replicas "
                f"with micro-batches of {size}"
            )
        return self.batch_size // (size * replicas)


def read_config(path: Path) -> TrainConfig:
    """The run that a TOML file describes. Raises ValueError that names the file and the fault."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(TrainConfig)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return TrainConfig(**values)
    except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
