"""Writes a model as a directory for transformers, sentence-transformers and the libraries built on them.

They use the vectors of the last layer, so layers above the pooled one are left out. The names are those that
sentence-transformers has written since version 2; later versions read them, too.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from service import huggingface
from service.model_directory import BertConfig, ModelDirectory, dense_shapes, encoder_shapes
from training.files import write_text

MODULE = "sentence_transformers.models."


def write_huggingface(model: ModelDirectory, directory: Path) -> None:
    """Writes all files to an empty directory. Raises ValueError if there is no name for the model's pooling."""
    config, pooling = cut_config(model), model.pooling
    modes = {strategy: mode for mode, strategy in huggingface.STRATEGIES.items()}
    if pooling.strategy not in modes:
        raise ValueError(f"invalid pooling: {pooling.strategy}; expected one of {', '.join(modes)}")
    length = pooling.max_seq_len or config.max_position_embeddings
    weights = {huggingface.torch_name(name): _to_torch(name, model.weights[name]) for name in encoder_shapes(config)}
    # No vector needs the pooler, and ours belongs to a layer that is left out, but transformers reports its absence.
    for name, shape in dense_shapes("bert/pooler/dense", config.hidden_size, config.hidden_size).items():
        weights[huggingface.torch_name(name)] = np.zeros(shape, np.float32)
    (directory / huggingface.WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
    _write(directory / huggingface.CONFIG, _describe(config))
    write_text(directory / "vocab.txt", "\n".join(model.tokenizer.vocab) + "\n")
    write_text(directory / huggingface.TOKENIZER, model.tokenizer.to_json())
    rules = model.tokenizer.rules
    _write(
        directory / huggingface.TOKENIZER_CONFIG,
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": rules["lowercase"],
            "strip_accents": rules["strip_accents"],
            "tokenize_chinese_chars": rules["split_chinese"],
            "model_max_length": length,
            **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        },
    )
    kinds = ["Transformer", "Pooling", *["Normalize"] * pooling.normalize]
    places = ["", huggingface.POOLING, "2_Normalize"]
    _write(
        directory / huggingface.MODULES,
        [
            {"idx": index, "name": str(index), "path": place, "type": f"{MODULE}{kind}"}
            for index, (kind, place) in enumerate(zip(kinds, places, strict=False))
        ],
    )
    _write(directory / huggingface.SENTENCE_BERT, {"max_seq_length": length, "do_lower_case": False})
    _write(directory / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    (directory / huggingface.POOLING).mkdir()
    fields = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    _write(
        directory / huggingface.POOLING / huggingface.CONFIG,
        {
            "word_embedding_dimension": config.hidden_size,
            **{f"pooling_mode_{field}": mode == modes[pooling.strategy] for mode, field in fields.items()},
        },
    )
    if not (directory / "README.md").exists():
        write_text(directory / "README.md", _make_card(model, config))


def cut_config(model: ModelDirectory) -> BertConfig:
    """Returns the configuration of the layers that pooling reads, counted as transformers does."""
    if len(model.pooling.layer) != 1:
        raise ValueError(f"invalid pooling of layers {list(model.pooling.layer)}; expected one layer")
    depth = model.config.num_hidden_layers + 1 + model.pooling.layer[0]
    if depth < 1:
        raise ValueError(f"invalid model: pooling reads layer {depth} of {model.config.num_hidden_layers}; expected 1")
    return BertConfig(**{**asdict(model.config), "num_hidden_layers": depth})


def _to_torch(name: str, values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.T if name.endswith("kernel") else values)


def _describe(config: BertConfig) -> dict[str, object]:
    fields = {"architectures": ["BertModel"], "model_type": "bert", "dtype": "float32", "pad_token_id": 0}
    described = fields | {"position_embedding_type": "absolute"} | asdict(config)
    if not config.matryoshka_dimensions:
        del described["matryoshka_dimensions"]
    return described


def _make_card(model: ModelDirectory, config: BertConfig) -> str:
    return f"""---
language: zh
pipeline_tag: sentence-similarity
library_name: sentence-transformers
tags:
- sentence-transformers
- feature-extraction
- danmaku
---

# {model.name}

A BERT of danmaku, {config.num_hidden_layers} layers of {config.hidden_size}, exported by `danmaku-train export`.
"""


def _write(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
