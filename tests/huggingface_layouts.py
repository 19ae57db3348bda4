"""Makes model directories as Hugging Face's libraries save them, with random weights, laid out as known models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from service.huggingface import torch_name
from service.model_directory import BertConfig, encoder_shapes
from service.tokenizer import SPECIAL_TOKENS, Tokenizer

VOCAB = [
    *SPECIAL_TOKENS,
    "awsl",
    "aqua",
    "##a",
    "2",
    "##3",
    "é",
    "e",
    "!",
    *"草哈阿夸晚安好来了我死谁你他她的笑可爱待机",
]
TEXTS = ["草", "阿夸awsl！", "晚安 晚安", "Aquaa 你好", "é", "𰻝", "哈" * 40]

CONFIG = {
    "vocab_size": len(VOCAB),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}
BERT = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}


def make(directory: Path, layout: str) -> Path:
    """Makes one of LAYOUTS; returns the directory."""
    directory.mkdir(parents=True)
    return LAYOUTS[layout](directory)


def _bge(directory: Path) -> Path:
    """bge-small-zh: the first token, scaled to length 1; tokenizer.json; a limit of its own."""
    _write(directory, {**CONFIG, "architectures": ["BertModel"]}, seed=1)
    (directory / "tokenizer.json").write_text(Tokenizer(VOCAB).to_json(), encoding="utf-8")
    add_modules(directory, "cls", max_seq_length=12, normalize=True)
    return directory


def _text2vec(directory: Path) -> Path:
    """text2vec-base-chinese: the mean over tokens; vocab.txt, and a table of embeddings that is padded."""
    _write(directory, {**CONFIG, "vocab_size": 40, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new"}, seed=2)
    _write_vocab(directory, {"do_lower_case": True, "strip_accents": False})
    add_modules(directory, "mean", max_seq_length=24)
    return directory


def _roberta(directory: Path) -> Path:
    """chinese-roberta-wwm-ext: nothing of sentence-transformers, names with `bert.`, old ones of LayerNorm, a head."""
    config = {**CONFIG, "hidden_act": "relu", "directionality": "bidi", "pooler_type": "first_token_transform"}
    _write(directory, config, seed=3, prefix="bert.", is_old=True)
    _write_vocab(directory, {})
    return directory


LAYOUTS = {"bge": _bge, "text2vec": _text2vec, "roberta": _roberta}


def add_modules(directory: Path, mode: str, *, max_seq_length: int, normalize: bool = False) -> None:
    names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    pooling = {f"pooling_mode_{field}": name == mode for name, field in names.items()}
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *[("2_Normalize", "Normalize")] * normalize]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    (directory / "1_Pooling").mkdir()
    for name, content in {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": CONFIG["hidden_size"], **pooling},
        "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
    }.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")


def _write(directory: Path, config: dict[str, object], *, seed: int, prefix: str = "", is_old: bool = False) -> None:
    (directory / "config.json").write_text(json.dumps({**BERT, **config}), encoding="utf-8")
    known = {name: value for name, value in config.items() if name in BertConfig.__dataclass_fields__}
    values = np.random.default_rng(seed)
    weights = {}
    for variable, shape in encoder_shapes(BertConfig(**known)).items():  # type: ignore[arg-type]
        array = values.standard_normal(shape, np.float32) * np.float32(0.3) + np.float32(variable.endswith("gamma"))
        name = torch_name(variable)
        if is_old:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        weights[prefix + name] = np.ascontiguousarray(array.T if variable.endswith("kernel") else array)
    if prefix:
        weights["cls.predictions.bias"] = np.zeros(len(VOCAB), np.float32)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _write_vocab(directory: Path, config: dict[str, object]) -> None:
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", **config}), encoding="utf-8"
    )
