"""The settings of a training run: a TOML file, written as a document (see configs/), read into a dataclass.

An unknown key is an error that names the known ones: a misspelt setting must not silently train another model.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Self, TypeVar, get_args, get_type_hints

# Settings that may change when a run is resumed: they have no effect on what is learned.
ANY_TIME = ("steps_per_loop", "save_checkpoints_steps", "log_steps")
TERMS = ("moment", "pair", "pretraining", "spelling", "relation", "ngram", "crowding")  # of the loss of `align`
CHOICES = {
    "optimizer": ("adamw", "corrected_adamw", "lamb"),
    "masks": ("static", "dynamic"),
    "kernel_dtype": ("auto", "float32", "bfloat16"),
}
# How the types of settings are checked and named in errors. In Python, bool is an int, but True is not a batch size.
TYPES: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda value: type(value) is int, "an integer"),
    float: (lambda value: type(value) in (int, float), "a number"),
    str: (lambda value: isinstance(value, str), "a string"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    tuple[int, ...]: (
        lambda value: isinstance(value, list | tuple) and all(type(item) is int for item in value),
        "a list of integers",
    ),
    Mapping[str, Any]: (lambda value: isinstance(value, Mapping), "a table"),
}


@dataclass(frozen=True)
class RunConfig:
    """The settings of every run, whatever it learns."""

    batch_size: int = 64  # examples per step, over all replicas
    optimizer: str = "adamw"  # or "corrected_adamw", "lamb": see bert/optimizer.py
    learning_rate: float = 1e-4  # the peak, at the end of the warm-up
    num_train_steps: int = 10_000
    num_warmup_steps: int = 500
    weight_decay_rate: float = 0.01
    kernel_dtype: str = "auto"  # for matrix products only; "auto": bfloat16 on TPU and GPU, float32 on CPU
    steps_per_loop: int = 1  # run on the device in one go; signals and progress are handled in between
    save_checkpoints_steps: int = 500
    log_steps: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("batch_size", "num_train_steps", *ANY_TIME):
            self._at_least(name, 1)
        for name in ("learning_rate", "weight_decay_rate", "num_warmup_steps"):
            self._at_least(name, 0)
        for name, choices in CHOICES.items():
            if hasattr(self, name) and getattr(self, name) not in choices:
                raise ValueError(f"invalid {name}: {getattr(self, name)!r}; expected one of {', '.join(choices)}")
        if self.num_warmup_steps >= self.num_train_steps:
            raise ValueError(
                f"invalid num_warmup_steps: {self.num_warmup_steps}; expected less than num_train_steps, "
                f"{self.num_train_steps}"
            )

    def _check_types(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            kind, *others = get_args(hint) if NoneType in get_args(hint) else [hint]
            has_type, description = TYPES[kind]
            if not has_type(value) and not (others and value is None):
                raise ValueError(f"invalid {name}: {value!r}; expected {description}")

    def _at_least(self, name: str, least: int) -> None:
        if not least <= getattr(self, name) < math.inf:
            raise ValueError(f"invalid {name}: {getattr(self, name)}; expected a finite number of at least {least}")

    def on(self, *, fast_bfloat16: bool) -> Self:
        """Returns the config with kernel_dtype chosen for a device."""
        if self.kernel_dtype != "auto":
            return self
        return replace(self, kernel_dtype="bfloat16" if fast_bfloat16 else "float32")


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The settings of pre-training.

    `model` holds fields of bert_config.json; vocab_size comes from the examples' vocabulary.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    init_checkpoint: str | None = None  # prefix or directory of a model to continue from; None: random weights
    micro_batch_size: int | None = None  # computes a batch that is too large for memory in parts of this size
    masks: str = "static"  # those of the examples; "dynamic": new ones in every epoch
    frozen_layers: int = 0  # the embeddings and this many first layers keep their weights, and therefore their vectors

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("frozen_layers", 0)
        if self.micro_batch_size is not None:
            self._at_least("micro_batch_size", 1)

    def micro_batches(self, replicas: int) -> int:
        """Returns how many micro-batches each replica computes for a step."""
        size = self.micro_batch_size or max(1, self.batch_size // replicas)
        if self.batch_size % (size * replicas):
            raise ValueError(
                f"invalid batch_size: {self.batch_size}; expected a multiple of {size * replicas}, for {replicas} "
                f"replicas with micro-batches of {size}"
            )
        return self.batch_size // (size * replicas)


@dataclass(frozen=True)
class AlignConfig(RunConfig):
    """The settings of multi-task training, which gives similar meanings close vectors (training/alignment/align.py).

    A term of weight 0 is left out of the loss, and its texts are left out of the batch.
    """

    # Temperatures of the softmax over a batch: a low one weights the nearest negatives more. Danmaku of one moment have
    # so little in common that a low one leads to crowding: cosines shrink until the softmax is soft again.
    temperature: float = 0.1  # of moments and pairs
    fine_temperature: float = 0.05  # of spelling and relations
    dims: tuple[int, ...] = (64, 128, 256)  # prefixes of a vector that are trained as vectors, too (Matryoshka)
    pooling_layer: int = -2  # whose mean over tokens is the vector: bert-as-service's default
    centred: bool = True  # start from the model shifted so that the mean of its vectors is the origin
    turned: bool = True  # rotate the vectors of moments to the model's own coordinates

    # Danmaku of the same moments: batch_size of them per step.
    moment_weight: float = 1.0  # of the loss between a danmaku and its context
    pair_weight: float = 1.0  # of the loss between danmaku of one moment
    window_s: float = 5.0  # danmaku within this many seconds belong to one moment
    max_neighbours: int = 20  # of a moment, on either side
    min_count: int = 3  # lines that make a danmaku frequent: together, they show its meaning
    # Dimensions of the vectors of moments, if more than the model has: it learns the first of them, n-grams learn all.
    cooccurrence_dim: int = 0
    frequent_share: float = 0.5  # of the danmaku that are frequent; the others are drawn from the rest
    lines_per_video: int = 2  # consecutive lines in a batch: 1 makes no pairs, 2 or more also make hard negatives
    hard_negative_gap_s: float = 60.0  # two moments of a video are negatives if they are this far apart

    # Masked LM and next sentence, each with its own loss, so the model remains a language model.
    pretraining_weight: float = 1.0
    pretraining_examples: int = 24  # of a step
    general_share: float = 0.25  # of the examples that are general texts, if there are any

    # Variants made by rule are pulled closer, opposites made by rule are pushed away.
    spelling_weight: float = 0.5
    spelled_texts: int = 32  # of a step, each with a variant and half of them with an opposite
    opposite_margin: float = 0.3  # by how much a variant's cosine exceeds its opposite's

    # The similarities within a batch of general texts follow a teacher.
    relation_weight: float = 0.0
    relation_texts: int = 80  # of a step
    taught_texts: int = 12_000  # general texts whose vectors the teacher makes before the run

    # The similarities within a batch of danmaku follow the vectors of their character n-grams.
    ngram_weight: float = 0.0
    ngram_texts: int = 160  # of a step
    taught_danmaku: int = 50_000  # half of them the commonest, the others drawn from the rest

    # Unrelated danmaku are spread evenly over the sphere.
    crowding_weight: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dims", tuple(self.dims))
        for name in ("max_neighbours", "min_count", "lines_per_video"):
            self._at_least(name, 1)
        for name in ("spelled_texts", "relation_texts", "ngram_texts"):
            self._at_least(name, 1)
        self._at_least("taught_danmaku", 2)
        self._at_least("pretraining_examples", 4)
        self._at_least("cooccurrence_dim", 0)
        for name in ("window_s", "hard_negative_gap_s", "opposite_margin", *(f"{term}_weight" for term in TERMS)):
            self._at_least(name, 0)
        for name in ("frequent_share", "general_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"invalid {name}: {getattr(self, name)}; expected a number from 0 to 1")
        for name in ("temperature", "fine_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"invalid {name}: {getattr(self, name)}; expected a finite number above 0")
        if not self.dims or min(self.dims) < 1 or sorted(set(self.dims)) != [*self.dims]:
            raise ValueError(
                f"invalid dims: {self.dims}; expected increasing numbers of dimensions, such as [64, 128, 256]"
            )


Config = TypeVar("Config", bound=RunConfig)


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads the settings of pre-training from a TOML file, overridden by `key=value` and `model.key=value`.

    Raises ValueError, which names the file or the override, and the fault.
    """
    return _read(path, overrides, TrainConfig)


def read_align_config(path: Path, overrides: Sequence[str] = ()) -> AlignConfig:
    """Reads the settings of `align` in the same way."""
    return _read(path, overrides, AlignConfig)


def _read(path: Path, overrides: Sequence[str], kind: type[Config]) -> Config:
    source = str(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            source = f"--set {override}"
            _merge(values, _parse_override(override))
            _make_config(values, kind)  # checked here, because the error must name the override
        return _make_config(values, kind)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from None


def _make_config(values: dict[str, Any], kind: type[Config]) -> Config:
    known = {f.name for f in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"unknown setting {', '.join(unknown)}; expected one of {', '.join(sorted(known))}")
    return kind(**values)


def _parse_override(text: str) -> dict[str, Any]:
    """Parses `key=value` as TOML, except that a word needs no quotes."""
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
