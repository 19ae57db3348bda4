"""Opens a model as it lies on disk: bert_config.json, vocab.txt and a checkpoint in one directory.

That is what `export` writes, what a training workdir holds while it runs, and how Google publishes BERT.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.tokenizer import Tokenizer
from training import checkpoint
from training.model import BertConfig, Params, variable_shapes

ENCODER = ("bert/embeddings/", "bert/encoder/")
EVERYTHING = ("",)


@dataclass(frozen=True)
class ModelDirectory:
    """A model that can be run: `model.encode(opened.params, opened.config, …)`."""

    name: str
    checkpoint: str
    config: BertConfig
    tokenizer: Tokenizer
    params: Params


def open_model(directory: Path, scopes: tuple[str, ...] = EVERYTHING) -> ModelDirectory:
    """The model in `directory`, with the variables under `scopes`; ValueError says why it cannot work."""
    config, tokenizer = open_config(directory)
    prefix = checkpoint.find(directory)
    shapes = {name: shape for name, shape in variable_shapes(config).items() if name.startswith(scopes)}
    params = checkpoint.load_model(prefix, shapes)
    return ModelDirectory(directory.resolve().name, prefix.name, config, tokenizer, params)


def open_config(directory: Path) -> tuple[BertConfig, Tokenizer]:
    """bert_config.json and vocab.txt of a model, which must agree on the size of the vocabulary."""
    for name in ("bert_config.json", "vocab.txt"):
        if not (directory / name).exists():
            raise FileNotFoundError(f"{directory} has no {name}: expected bert_config.json, vocab.txt and a checkpoint")
    config = BertConfig.from_json_file(directory / "bert_config.json")
    tokenizer = Tokenizer.from_file(directory / "vocab.txt")
    if len(tokenizer.vocab) != config.vocab_size:
        raise ValueError(
            f"{directory}: vocab.txt has {len(tokenizer.vocab)} tokens, but bert_config.json says {config.vocab_size}"
        )
    return config, tokenizer
