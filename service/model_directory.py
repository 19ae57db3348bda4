"""A model directory, `models/<name>/`: what training hands over and serving opens.

bert_config.json   Google's fields
vocab.txt          a token a line
*.index, *.data-*  a TensorFlow checkpoint under Google's variable names; if there are several, a text file
                   `checkpoint` names the one to use
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path

import numpy as np

from service.checkpoint import read_checkpoint
from service.errors import ModelError
from service.tokenizer import Tokenizer


@dataclass(frozen=True)
class BertConfig:
    """The fields of Google's bert_config.json that decide what a trained model computes."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    hidden_act: str = "gelu"


@dataclass(frozen=True)
class ModelDirectory:
    """An opened directory: everything read, and checked against each other."""

    name: str
    config: BertConfig
    tokenizer: Tokenizer
    weights: Mapping[str, np.ndarray]
    digest: str  # of weights and vocabulary: equal for equal models, wherever they lie


def open_model_directory(path: Path) -> ModelDirectory:
    """Raises ModelError that names the file at fault."""
    if not path.is_dir():
        raise ModelError(f"{path} is not a directory; expected bert_config.json, vocab.txt and a checkpoint in it")
    config = _read_config(path / "bert_config.json")
    try:
        tokenizer = Tokenizer.from_file(path / "vocab.txt")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path / 'vocab.txt'} cannot be used: {error}") from None
    if len(tokenizer.vocab) != config.vocab_size:
        raise ModelError(
            f"{path / 'vocab.txt'} has {len(tokenizer.vocab)} tokens, but {path / 'bert_config.json'} "
            f"says vocab_size {config.vocab_size}: they are of different models"
        )
    prefix = find_checkpoint(path)
    weights = read_checkpoint(prefix)
    for name, shape in _expected_shapes(config).items():
        if name not in weights:
            raise ModelError(
                f"{prefix} has no variable {name}; is it a BERT checkpoint of {config.num_hidden_layers} layers?"
            )
        if weights[name].shape != shape:
            raise ModelError(
                f"{prefix}: {name} is {list(weights[name].shape)}, but bert_config.json implies {list(shape)}"
            )
    digest = sha256("\n".join(tokenizer.vocab).encode())
    for name in sorted(_expected_shapes(config)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return ModelDirectory(path.resolve().name, config, tokenizer, weights, digest.hexdigest())


def find_checkpoint(directory: Path) -> Path:
    """The prefix of the directory's checkpoint: the one that the file `checkpoint` names, or the only one there is."""
    state = directory / "checkpoint"
    if state.exists():
        match = re.search(r'^model_checkpoint_path: "(.*)"', state.read_text(encoding="utf-8"), re.MULTILINE)
        if not match:
            raise ModelError(f'{state} has no line model_checkpoint_path: "NAME"')
        return directory / Path(match[1]).name
    found = sorted(directory.glob("*.index"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(f"{directory} should hold one checkpoint (*.index) or a file `checkpoint`; found {names}")
    return found[0].with_suffix("")


def _read_config(path: Path) -> BertConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(BertConfig)}
        config = BertConfig(**{key: value for key, value in values.items() if key in known})
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a BERT configuration: {error}") from None
    if config.hidden_act != "gelu":
        raise ModelError(f'{path}: hidden_act is {config.hidden_act!r}; only "gelu" can be served')
    return config


def _expected_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The variables that serving reads; pre-training heads and optimizer state may be there or not."""
    h, i = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (config.vocab_size, h),
        "bert/embeddings/token_type_embeddings": (2, h),
        "bert/embeddings/position_embeddings": (config.max_position_embeddings, h),
        "bert/embeddings/LayerNorm/beta": (h,),
        "bert/embeddings/LayerNorm/gamma": (h,),
    }
    for index in range(config.num_hidden_layers):
        layer = f"bert/encoder/layer_{index}"
        for name in ("query", "key", "value"):
            shapes[f"{layer}/attention/self/{name}/kernel"] = (h, h)
            shapes[f"{layer}/attention/self/{name}/bias"] = (h,)
        for scope, inputs, outputs in (
            ("attention/output/dense", h, h),
            ("intermediate/dense", h, i),
            ("output/dense", i, h),
        ):
            shapes[f"{layer}/{scope}/kernel"] = (inputs, outputs)
            shapes[f"{layer}/{scope}/bias"] = (outputs,)
        for scope in ("attention/output", "output"):
            shapes[f"{layer}/{scope}/LayerNorm/beta"] = (h,)
            shapes[f"{layer}/{scope}/LayerNorm/gamma"] = (h,)
    return shapes
