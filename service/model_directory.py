"""Opens a model directory, `models/<name>/`, which training exports.

bert_config.json   Google's fields
vocab.txt          one token per line
*.index, *.data-*  a TensorFlow checkpoint under Google's variable names; if there are several, a text file
                   `checkpoint` names the one to use

With bert-serving-start's flags the checkpoint may be in another directory (`-tuned_model_dir`), under any name.
Directories of Hugging Face's libraries are opened, too: `service/huggingface.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from typing import get_type_hints

import numpy as np

from service import huggingface
from service.checkpoint import read_checkpoint
from service.errors import ModelError
from service.huggingface import Pooling
from service.tokenizer import Tokenizer

BUNDLED = Path("models/danmaku-bert-mini")
CONFIG_NAME = "bert_config.json"

Shapes = dict[str, tuple[int, ...]]


ACTIVATIONS = ("gelu", "gelu_new", "relu")
# Larger numbers are mistakes, which should be found before they take hours or all memory.
LARGEST = {"num_hidden_layers": 1000, "max_position_embeddings": 2**20, "vocab_size": 2**24}
LARGEST_SIZE = 2**16
MAX_PADDING = 128  # rows that were added to the embeddings to reach a multiple of 8 to 128
LONGEST_NAME = 200  # of a checkpoint, in characters
# Fields of other models' configurations, with the only values for which a BertModel has the same vectors.
FIXED: dict[str, tuple[object, ...]] = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None, {}),
}


@dataclass(frozen=True)
class BertConfig:
    """The fields of Google's bert_config.json, and those of transformers' BertConfig that change vectors.

    Raises ValueError for unsupported values.
    """

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"  # gelu_new: with the tanh of Google's later code
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    matryoshka_dimensions: tuple[int, ...] = ()  # the lengths to which vectors may be cut, as the model was trained

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if kind is int:
                most = LARGEST.get(name, LARGEST_SIZE)
                if type(value) is not int or not 1 <= value <= most:
                    raise ValueError(f"invalid {name}: {value!r}; expected a whole number from 1 to {most}")
            elif kind is float and (type(value) not in (int, float) or not 0 <= value < 1 or not math.isfinite(value)):
                raise ValueError(f"invalid {name}: {value!r}; expected a number from 0 to less than 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"invalid hidden_size: {self.hidden_size}; expected a multiple of num_attention_heads, "
                f"{self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"invalid hidden_act: {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}")
        dimensions = self.matryoshka_dimensions
        if not isinstance(dimensions, tuple | list) or not all(
            type(length) is int and 1 <= length <= self.hidden_size for length in dimensions
        ):
            raise ValueError(f"invalid matryoshka_dimensions: {dimensions!r}; expected lengths up to hidden_size")
        object.__setattr__(self, "matryoshka_dimensions", tuple(sorted({*dimensions})))

    @classmethod
    def from_json_file(cls, path: Path) -> BertConfig:
        """Ignores fields that change no vector (`pooler_fc_size`, …). Raises ModelError that names the file."""
        values = huggingface.read_json(path)
        try:
            for name, expected in FIXED.items():
                if name in values and values[name] not in expected:
                    raise ValueError(f"invalid {name}: {values[name]!r}; expected {expected[0]!r}")
            known = {field.name for field in fields(cls)}
            return cls(**{key: value for key, value in values.items() if key in known})
        except (ValueError, TypeError) as error:
            raise ModelError(f"{path} is not a BERT configuration: {error}") from None

    def to_json(self) -> str:
        """Returns Google's fields, and other fields that are not at their default."""
        values = asdict(self)
        for name in ("layer_norm_eps", "matryoshka_dimensions"):
            if values[name] == getattr(BertConfig, name):
                del values[name]
        return json.dumps(values, indent=2, sort_keys=True) + "\n"


def encoder_shapes(config: BertConfig) -> Shapes:
    """Returns the variables that embeddings are computed from, under google-research/bert's names."""
    h, i = config.hidden_size, config.intermediate_size
    shapes: Shapes = {
        "bert/embeddings/word_embeddings": (config.vocab_size, h),
        "bert/embeddings/token_type_embeddings": (config.type_vocab_size, h),
        "bert/embeddings/position_embeddings": (config.max_position_embeddings, h),
        **layer_norm_shapes("bert/embeddings", h),
    }
    for index in range(config.num_hidden_layers):
        layer = f"bert/encoder/layer_{index}"
        for name in ("query", "key", "value"):
            shapes |= dense_shapes(f"{layer}/attention/self/{name}", h, h)
        shapes |= dense_shapes(f"{layer}/attention/output/dense", h, h)
        shapes |= layer_norm_shapes(f"{layer}/attention/output", h)
        shapes |= dense_shapes(f"{layer}/intermediate/dense", h, i)
        shapes |= dense_shapes(f"{layer}/output/dense", i, h)
        shapes |= layer_norm_shapes(f"{layer}/output", h)
    return shapes


def pooled_encoder_shapes(config: BertConfig) -> Shapes:
    """Adds the pooler, which CLS_POOLED needs and fine-tuned models may lack."""
    return encoder_shapes(config) | dense_shapes("bert/pooler/dense", config.hidden_size, config.hidden_size)


def dense_shapes(scope: str, inputs: int, outputs: int) -> Shapes:
    return {f"{scope}/kernel": (inputs, outputs), f"{scope}/bias": (outputs,)}


def layer_norm_shapes(scope: str, size: int) -> Shapes:
    return {f"{scope}/LayerNorm/beta": (size,), f"{scope}/LayerNorm/gamma": (size,)}


@dataclass(frozen=True)
class ModelDirectory:
    """An opened directory; its files match each other."""

    name: str
    checkpoint: str  # the name of its prefix, such as model.ckpt-12000
    config: BertConfig
    tokenizer: Tokenizer
    weights: Mapping[str, np.ndarray]
    digest: str  # of the encoder's weights and the vocabulary: equal for equal models, independent of their paths
    pooling: Pooling = Pooling()

    def can_be_averaged_with(self, other: ModelDirectory) -> bool:
        """Returns whether both have the same shape and vocabulary; the lengths to cut vectors to may differ."""
        configs = [replace(each.config, matryoshka_dimensions=()) for each in (self, other)]
        return configs[0] == configs[1] and self.tokenizer.vocab == other.tokenizer.vocab


def open_model_directory(
    path: Path,
    shapes: Callable[[BertConfig], Shapes] = encoder_shapes,
    *,
    prefix: Path | None = None,
    config_name: str = CONFIG_NAME,
    lowercase: bool = True,
) -> ModelDirectory:
    """Opens a model directory and reads the variables of `shapes`.

    `prefix` is the checkpoint, if not the directory's own: see `find_checkpoint` and `named_checkpoint`.

    Raises ModelError that names the invalid file.
    """
    path = find_model(path)
    if path == BUNDLED and not path.is_dir():
        raise ModelError(
            f"{path} is neither in the current directory nor in the installed package; start in a clone of the "
            "repository, or name a model directory by its absolute path, as in --encoder onnx:///srv/models/mine"
        )
    if not path.is_dir():
        raise ModelError(f"{path} is not a directory; expected {config_name}, vocab.txt and a checkpoint in it")
    if prefix is None and config_name == CONFIG_NAME and huggingface.is_huggingface(path):
        return _open_huggingface(path, shapes, lowercase=lowercase)
    config = BertConfig.from_json_file(path / config_name)
    try:
        tokenizer = Tokenizer.from_file(path / "vocab.txt", lowercase=lowercase)
    except (OSError, ValueError) as error:
        raise ModelError(f"invalid vocabulary {path / 'vocab.txt'}: {error}") from None
    _check_vocabulary(path, config, tokenizer)
    prefix = prefix or find_checkpoint(path)
    weights = read_variables(prefix, shapes(config))
    digest = _digest(config, tokenizer, weights)
    return ModelDirectory(path.resolve().name, prefix.name, config, tokenizer, weights, digest)


def _open_huggingface(path: Path, shapes: Callable[[BertConfig], Shapes], *, lowercase: bool) -> ModelDirectory:
    config = BertConfig.from_json_file(path / huggingface.CONFIG)
    tokenizer, pooling = huggingface.read_tokenizer(path, lowercase=lowercase), huggingface.read_pooling(path)
    _check_vocabulary(path, config, tokenizer)
    weights = huggingface.read_weights(path, shapes(config))
    digest = _digest(config, tokenizer, weights)
    return ModelDirectory(path.resolve().name, huggingface.WEIGHTS, config, tokenizer, weights, digest, pooling)


def _check_vocabulary(path: Path, config: BertConfig, tokenizer: Tokenizer) -> None:
    """Raises ModelError if the tokens are not those of the embeddings, which may be padded.

    bert-serving-server does not check this: a token beyond them crashes its worker.
    """
    padding = config.vocab_size - len(tokenizer.vocab)
    if padding and not (0 < padding < MAX_PADDING and config.vocab_size % 8 == 0):
        raise ModelError(
            f"the vocabulary in {path} has {len(tokenizer.vocab)} tokens, but its configuration says vocab_size "
            f"{config.vocab_size}: they belong to different models"
        )


def _digest(config: BertConfig, tokenizer: Tokenizer, weights: Mapping[str, np.ndarray]) -> str:
    """Returns a hash of all that changes vectors, except options and what the shapes of the weights determine."""
    changes = [
        f"{name} {getattr(config, name)}"
        for name in ("hidden_act", "layer_norm_eps")
        if getattr(config, name) != getattr(BertConfig, name)
    ]
    usual = {"strip_accents": None, "split_chinese": True}  # `lowercase` is an option
    changes += [f"{name} {tokenizer.rules[name]}" for name, value in usual.items() if tokenizer.rules[name] != value]
    digest = sha256("\n".join([str(config.num_attention_heads), *changes, *tokenizer.vocab]).encode())
    for name in sorted(encoder_shapes(config).keys() & weights.keys()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()


def find_model(path: Path) -> Path:
    """Returns the bundled model's place if `path` names it and does not exist, otherwise `path`.

    So `models/danmaku-bert-mini` can be opened from any directory. A wheel installs it below this package; in a clone,
    it is beside this package.
    """
    if path != BUNDLED or path.is_dir():
        return path
    package = Path(__file__).parent
    return next((found for found in (package / path, package.parent / path) if found.is_dir()), path)


def find_checkpoint(directory: Path) -> Path:
    """Returns the prefix of the checkpoint that the file `checkpoint` names, or of the only one. Raises ModelError."""
    directory = find_model(directory)
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory; expected a checkpoint in it")
    state = directory / "checkpoint"
    if state.exists():
        try:
            text = state.read_text("utf-8", errors="replace")
        except OSError as error:
            raise ModelError(f"cannot read {state}: {error.strerror}") from None
        match = re.search(r'^model_checkpoint_path: "([^"\0]+)"\s*$', text, re.MULTILINE)
        if not match:
            raise ModelError(f'{state} has no line model_checkpoint_path: "NAME"')
        # Some programs write absolute paths, Windows' too, which become wrong when the directory is moved.
        name = PureWindowsPath(match[1]).name
        prefix = directory / name
        if len(name) > LONGEST_NAME or not prefix.with_name(f"{name}.index").exists():
            raise ModelError(f"{state} names {name}, but {prefix}.index does not exist")
        return prefix
    found = sorted(directory.glob("*.index"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(f"{directory} should hold one checkpoint (*.index) or a file `checkpoint`; found {names}")
    return found[0].with_suffix("")


def named_checkpoint(directory: Path, name: str) -> Path:
    """Returns the prefix `name` in a directory. Raises ModelError that lists the checkpoints if it does not exist."""
    directory = find_model(directory)
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory; expected the checkpoint {name} in it")
    prefix = directory / name
    if not prefix.with_name(f"{name}.index").exists():
        names = ", ".join(path.stem for path in sorted(directory.glob("*.index"))) or "none"
        raise ModelError(f"{prefix}.index does not exist; checkpoints in {directory}: {names}")
    return prefix


def read_variables(prefix: Path, shapes: Shapes) -> dict[str, np.ndarray]:
    """Reads the variables of `shapes` as float32. Raises ModelError if one is missing or has another shape."""
    tensors = read_checkpoint(prefix, shapes.keys())
    for name, shape in shapes.items():
        if name not in tensors:
            raise ModelError(f"{prefix} has no variable {name}; the configuration may belong to another model")
        if tensors[name].shape != shape:
            raise ModelError(
                f"{prefix}: invalid shape of {name}: {list(tensors[name].shape)}; "
                f"expected {list(shape)} by the configuration"
            )
    return {name: tensors[name].astype(np.float32, copy=False) for name in shapes}
