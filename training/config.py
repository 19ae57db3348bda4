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
from typing import Any, Self, TypeVar

# What may change while a run is interrupted: it has no part in what is learned.
ANY_TIME = ("steps_per_loop", "save_checkpoints_steps", "log_steps")
CHOICES = {
    "optimizer": ("adamw", "lamb"),
    "masks": ("static", "dynamic"),
    "kernel_dtype": ("auto", "float32", "bfloat16"),
}


@dataclass(frozen=True)
class RunConfig:
    """What every run is told, whatever it learns."""

    batch_size: int = 64  # of a step, over all replicas
    optimizer: str = "adamw"  # or "lamb"
    learning_rate: float = 1e-4  # the peak, at the end of the warm-up
    num_train_steps: int = 10_000
    num_warmup_steps: int = 500
    weight_decay_rate: float = 0.01
    kernel_dtype: str = "auto"  # of matrix products, all else is float32; bfloat16 on TPU and GPU, float32 on CPU
    steps_per_loop: int = 1  # on the device without a word; a signal is heeded, and progress shown, in between
    save_checkpoints_steps: int = 500
    log_steps: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_train_steps", *ANY_TIME):
            self._at_least(name, 1)
        for name in ("learning_rate", "weight_decay_rate", "num_warmup_steps"):
            self._at_least(name, 0)
        for name, choices in CHOICES.items():
            if hasattr(self, name) and getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if self.num_warmup_steps >= self.num_train_steps:
            raise ValueError(
                f"num_warmup_steps is {self.num_warmup_steps}; it must be below num_train_steps, {self.num_train_steps}"
            )

    def _at_least(self, name: str, least: int) -> None:
        if not least <= getattr(self, name) < math.inf:
            needed = f"at least {least}" if least else "a number from 0 on"
            raise ValueError(f"{name} is {getattr(self, name)}; it must be {needed}")

    def on(self, *, fast_bfloat16: bool) -> Self:
        """The config with kernel_dtype chosen for a device."""
        if self.kernel_dtype != "auto":
            return self
        return replace(self, kernel_dtype="bfloat16" if fast_bfloat16 else "float32")


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Pre-training. `model` holds fields of bert_config.json; vocab_size comes from the examples' vocabulary."""

    model: Mapping[str, Any] = field(default_factory=dict)
    init_checkpoint: str | None = None  # prefix of a checkpoint to continue from; None: random weights
    micro_batch_size: int | None = None  # a batch that is too large for memory is computed in parts of this size
    masks: str = "static"  # as they are in the examples, or "dynamic": new ones in every epoch

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch_size is not None:
            self._at_least("micro_batch_size", 1)

    def micro_batches(self, replicas: int) -> int:
        """How many micro-batches each of so many replicas computes for a step."""
        size = self.micro_batch_size or max(1, self.batch_size // replicas)
        if self.batch_size % (size * replicas):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared out: it must be a multiple of {replicas} replicas "
                f"with micro-batches of {size}"
            )
        return self.batch_size // (size * replicas)


@dataclass(frozen=True)
class AlignConfig(RunConfig):
    """Contrastive training of a pre-trained model on what is said at the same moments (training/alignment/align.py)."""

    temperature: float = 0.05  # of the softmax over a batch: lower looks harder at the nearest wrong ones
    window_s: float = 5.0  # what is said within so many seconds is of one moment
    max_neighbours: int = 20  # of a moment, on either side
    min_count: int = 3  # lines with a danmaku, from which all of them together say what it means
    frequent_share: float = 0.5  # of the examples: danmaku that are frequent in this sense; the rest are any
    dims: tuple[int, ...] = (64, 128, 256)  # each prefix of a vector is to be a vector (Matryoshka)
    pooling_layer: int = -2  # whose mean over tokens is the vector: bert-as-service's default
    masked_lm_weight: float = 0.1  # of the masked-LM loss beside the contrastive one; 0 leaves it out
    masked_share: float = 0.25  # of a batch's danmaku, read with masks
    pair_weight: float = 1.0  # of the loss between danmaku of one moment, beside that to the moment itself
    lines_per_video: int = 2  # of a batch, one after the other: 1 makes no pairs, more also hard negatives
    hard_negative_gap_s: float = 60.0  # how far apart two moments of a video must be to be told apart

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dims", tuple(self.dims))
        for name in ("max_neighbours", "min_count", "lines_per_video"):
            self._at_least(name, 1)
        for name in ("window_s", "masked_lm_weight", "pair_weight", "hard_negative_gap_s"):
            self._at_least(name, 0)
        for name in ("frequent_share", "masked_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if not self.dims or min(self.dims) < 1 or sorted(set(self.dims)) != [*self.dims]:
            raise ValueError(f"dims is {self.dims}; expected rising numbers of dimensions, such as [64, 128, 256]")


Config = TypeVar("Config", bound=RunConfig)


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The pre-training that a TOML file describes, changed by `key=value` and `model.key=value`.

    Raises ValueError that names the file or the override, and the fault.
    """
    return _read(path, overrides, TrainConfig)


def read_align_config(path: Path, overrides: Sequence[str] = ()) -> AlignConfig:
    """The same for `align`."""
    return _read(path, overrides, AlignConfig)


def _read(path: Path, overrides: Sequence[str], kind: type[Config]) -> Config:
    source = str(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            source = f"--set {override}"
            _merge(values, _override(override))
            _config(values, kind)  # so that the error names the override at fault
        return _config(values, kind)
    except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None


def _config(values: dict[str, Any], kind: type[Config]) -> Config:
    known = {f.name for f in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return kind(**values)


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
