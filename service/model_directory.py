"""A model directory, `models/<name>/`, which training exports and serving opens.

bert_config.json   Google's fields
vocab.txt          a token per line
*.index, *.data-*  a TensorFlow checkpoint under Google's variable names; if there are several, a text file
                   `checkpoint` names the one to use

With bert-serving-start's flags the checkpoint may be in another directory (`-tuned_model_dir`), under any name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path

import numpy as np

from service.checkpoint import read_checkpoint
from service.errors import ModelError
from service.tokenizer import Tokenizer

BUNDLED = Path("models/danmaku-bert-mini")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class BertConfig:
    """The fields of Google's bert_config.json. Raises ValueError for unsupported values."""

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"invalid {name}: {value}; expected at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"invalid hidden_size: {self.hidden_size}; expected a multiple of num_attention_heads, "
                f"{self.num_attention_heads}"
            )
        if self.hidden_act != "gelu":
            raise ValueError(f'invalid hidden_act: {self.hidden_act!r}; expected "gelu"')

    @classmethod
    def from_json_file(cls, path: Path) -> BertConfig:
        """Ignores fields that BERT itself does not use (`pooler_fc_size`, …). Raises ModelError that names the file."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {field.name for field in fields(cls)}
            return cls(**{key: value for key, value in values.items() if key in known})
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} is not a BERT configuration: {error}") from None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


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
    digest: str  # of the encoder's weights and the vocabulary: equal for equal models, whatever their paths


def open_model_directory(
    path: Path,
    shapes: Callable[[BertConfig], Shapes] = encoder_shapes,
    *,
    prefix: Path | None = None,
    config_name: str = "bert_config.json",
    lowercase: bool = True,
) -> ModelDirectory:
    """Opens a model directory and reads the variables of `shapes`.

    `prefix` is the checkpoint if it is not the directory's own: see `find_checkpoint`, `named_checkpoint`.

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
    config = BertConfig.from_json_file(path / config_name)
    try:
        tokenizer = Tokenizer.from_file(path / "vocab.txt", lowercase=lowercase)
    except (OSError, ValueError) as error:
        raise ModelError(f"invalid vocabulary {path / 'vocab.txt'}: {error}") from None
    # bert-serving-server does not check this: a token beyond the embeddings crashes its worker.
    if len(tokenizer.vocab) != config.vocab_size:
        raise ModelError(
            f"{path / 'vocab.txt'} has {len(tokenizer.vocab)} tokens, but {path / config_name} "
            f"says vocab_size {config.vocab_size}: they are of different models"
        )
    prefix = prefix or find_checkpoint(path)
    weights = read_variables(prefix, shapes(config))
    # The shapes of the weights determine the rest of the configuration, but not the number of heads.
    digest = sha256("\n".join([str(config.num_attention_heads), *tokenizer.vocab]).encode())
    for name in sorted(encoder_shapes(config).keys() & weights.keys()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return ModelDirectory(path.resolve().name, prefix.name, config, tokenizer, weights, digest.hexdigest())


def find_model(path: Path) -> Path:
    """Returns where the bundled model is if `path` names it and does not exist, else `path` itself.

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
        match = re.search(r'^model_checkpoint_path: "(.+)"$', state.read_text("utf-8", errors="replace"), re.MULTILINE)
        if not match:
            raise ModelError(f'{state} has no line model_checkpoint_path: "NAME"')
        # Some programs write absolute paths, which become wrong when the directory is moved.
        prefix = directory / Path(match[1]).name
        if not prefix.with_name(f"{prefix.name}.index").exists():
            raise ModelError(f"{state} names {prefix.name}, but {prefix}.index does not exist")
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
