"""Reads model directories in Hugging Face's layout, in the terms of Google's format.

config.json               the fields of transformers' BertConfig, most of which are Google's
model.safetensors         weights under PyTorch's names, kernels transposed
tokenizer.json            WordPiece and its normaliser; or vocab.txt and tokenizer_config.json
modules.json              of sentence-transformers: the modules after BERT
1_Pooling/config.json     … how token vectors are pooled
config_sentence_transformers.json … prompts, which are not supported
sentence_bert_config.json … how many tokens are read

Only what this service computes exactly is accepted; anything else that changes vectors is an error that names the
field.

Sources: transformers/models/bert, sentence_transformers/models and the format of tokenizer.json in `tokenizers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from service.errors import ModelError
from service.tokenizer import MAX_CHARACTERS_PER_WORD, SPECIAL_TOKENS, Tokenizer, read_vocab

CONFIG, WEIGHTS, MODULES, POOLING = "config.json", "model.safetensors", "modules.json", "1_Pooling"
TOKENIZER, TOKENIZER_CONFIG, SENTENCE_BERT = "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
EXPECTED = {
    "do_lower_case": f"false, because {TOKENIZER_CONFIG} says it",
    "default_prompt_name": "none, because texts are embedded as they are",
}

# Values of 1_Pooling/config.json that a strategy of bert-as-service equals.
STRATEGIES = {"cls": "CLS_TOKEN", "mean": "REDUCE_MEAN", "max": "REDUCE_MAX", "lasttoken": "SEP_TOKEN"}
HEADS = {  # of the language model, whose names follow no common rule
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
}
CONVERT = "python -c \"from transformers import AutoModel; AutoModel.from_pretrained('{0}').save_pretrained('{0}')\""


@dataclass(frozen=True)
class Pooling:
    """The pooling that a model uses by default; without one, that of bert-as-service."""

    layer: tuple[int, ...] = (-2,)
    strategy: str = "REDUCE_MEAN"
    normalize: bool = False  # scaled to length 1
    max_seq_len: int | None = None  # None: the number of positions


def is_huggingface(directory: Path) -> bool:
    """Returns whether a directory is in this format; Google's files come first if there are both."""
    return (directory / CONFIG).exists() and not (directory / "bert_config.json").exists()


def torch_name(variable: str) -> str:
    """Returns PyTorch's name for a variable of a BertModel, or of a language model's head, under Google's name."""
    if variable in HEADS:
        return HEADS[variable]
    name = re.sub(r"layer_(\d+)", r"layer.\1", variable).removeprefix("bert/").replace("/", ".")
    scope, _, kind = name.rpartition(".")
    kinds = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
    return f"{scope}.{kinds[kind]}" if kind in kinds else f"{name}.weight"


def read_weights(
    directory: Path, shapes: Mapping[str, tuple[int, ...]], *, optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Reads the variables of `shapes` as float32, under Google's names.

    Names may begin with `bert.`, and LayerNorm's may be `gamma` and `beta`, as in old conversions. Variables that begin
    with one of `optional` may be missing. Raises ModelError if another one is, has another shape or is not finite.
    """
    path = directory / WEIGHTS
    if not path.is_file():
        raise ModelError(_explain_missing(directory))
    try:
        with safe_open(path, framework="numpy") as tensors:
            names = set(tensors.keys())
            weights = {}
            for variable, shape in shapes.items():
                name = _find(names, variable)
                if name is not None:
                    weights[variable] = _check(tensors.get_tensor(name), variable, shape, f"{path}: {name}")
                elif not variable.startswith(optional):
                    raise ModelError(
                        f"{path} has no tensor {torch_name(variable)}; the configuration may belong to another model"
                    )
            return weights
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"cannot read {path}: {error}") from None


def _explain_missing(directory: Path) -> str:
    if (directory / "pytorch_model.bin").exists():
        return (
            f"{directory} has weights as pytorch_model.bin, which is a program and not only data; expected {WEIGHTS}. "
            f"To convert it, in an environment with transformers and torch: {CONVERT.format(directory)}"
        )
    if list(directory.glob("*.safetensors.index.json")):
        return f"{directory} has weights in several files; expected one, {WEIGHTS}"
    return f"{directory / WEIGHTS} does not exist; expected the weights of a BertModel in it"


def _find(names: set[str], variable: str) -> str | None:
    name = torch_name(variable)
    old = re.sub(r"LayerNorm\.(weight|bias)$", lambda match: f"LayerNorm.{OLD_NAMES[match[1]]}", name)
    return next((found for each in (name, old) for found in (each, f"bert.{each}") if found in names), None)


OLD_NAMES = {"weight": "gamma", "bias": "beta"}


def _check(tensor: np.ndarray, variable: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    if variable.endswith("kernel"):
        tensor = tensor.T
    if tensor.shape != shape:
        raise ModelError(f"invalid shape of {name}: {[*tensor.shape]}; expected {[*shape]} by the configuration")
    tensor = np.ascontiguousarray(tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise ModelError(f"invalid weights: {name} is not finite; the file may be damaged")
    return tensor


def read_tokenizer(directory: Path, *, lowercase: bool = True) -> Tokenizer:
    """Reads tokenizer.json, or vocab.txt with tokenizer_config.json. `lowercase=False` keeps case in any model.

    Raises ModelError if the tokens would not be the model's.
    """
    config = read_json(directory / TOKENIZER_CONFIG) if (directory / TOKENIZER_CONFIG).exists() else {}
    try:
        if (path := directory / TOKENIZER).exists():
            vocab, rules = _parse_tokenizer(read_json(path))
        else:
            path = directory / "vocab.txt"
            vocab, rules = read_vocab(path), {"lowercase": True, "strip_accents": None, "split_chinese": True}
        # The configuration's word counts in transformers.
        if config.get("do_lower_case") is not None:
            rules["lowercase"] = _flag(config, "do_lower_case")
        if config.get("tokenize_chinese_chars") is not None:
            rules["split_chinese"] = _flag(config, "tokenize_chinese_chars")
        if "strip_accents" in config:
            rules["strip_accents"] = _flag(config, "strip_accents", optional=True)
        rules["lowercase"] = rules["lowercase"] and lowercase
        return Tokenizer(vocab, **rules)
    except ModelError as error:
        raise ModelError(f"invalid {path}: {error}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"invalid vocabulary {path}: {error}") from None


def _parse_tokenizer(content: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    model, normalizer = _object(content, "model"), _object(content, "normalizer")
    _expect(model, "model.type", "WordPiece")
    _expect(model, "model.unk_token", "[UNK]")
    _expect(model, "model.continuing_subword_prefix", "##")
    _expect(model, "model.max_input_chars_per_word", MAX_CHARACTERS_PER_WORD)
    _expect(normalizer, "normalizer.type", "BertNormalizer")
    _expect(normalizer, "normalizer.clean_text", True)
    _expect(_object(content, "pre_tokenizer"), "pre_tokenizer.type", "BertPreTokenizer")
    ids = _object(model, "vocab")
    if sorted(ids.values(), key=str) != sorted(range(len(ids)), key=str):
        raise ModelError("invalid model.vocab: expected the ids 0, 1, …, each of one token")
    added = [token.get("content") for token in content.get("added_tokens") or [] if isinstance(token, dict)]
    if others := [token for token in added if token not in SPECIAL_TOKENS]:
        raise ModelError(f"invalid added_tokens: {others[0]!r}; expected only {', '.join(SPECIAL_TOKENS)}")
    rules = {
        "lowercase": _flag(normalizer, "lowercase"),
        "strip_accents": _flag(normalizer, "strip_accents", optional=True),
        "split_chinese": _flag(normalizer, "handle_chinese_chars"),
    }
    return sorted(ids, key=ids.__getitem__), rules


def read_pooling(directory: Path) -> Pooling:
    """Returns the pooling of sentence-transformers: without its files, the mean over the tokens of the last layer.

    Raises ModelError for modules, pooling and prompts that the service does not have.
    """
    length = None
    for name, field in ((TOKENIZER_CONFIG, "model_max_length"), (SENTENCE_BERT, "max_seq_length")):
        if (directory / name).exists() and (limit := read_json(directory / name).get(field)) is not None:
            if not isinstance(limit, int | float) or isinstance(limit, bool) or not limit >= 1:
                raise ModelError(f"invalid {field} in {directory / name}: {limit!r}; expected a number of tokens")
            # transformers writes 1e30 for "no limit".
            length = int(limit) if limit < NO_LIMIT else length
    for name, field in ((SENTENCE_BERT, "do_lower_case"), (PROMPTS, "default_prompt_name")):
        if (directory / name).exists() and (value := read_json(directory / name).get(field)):
            raise ModelError(f"invalid {field} in {directory / name}: {value!r}; expected {EXPECTED[field]}")
    pooling = Pooling((-1,), "REDUCE_MEAN", False, length)
    if not (directory / MODULES).exists():
        return pooling
    kinds = [str(module.get("type")).rpartition(".")[2] for module in _read_modules(directory / MODULES)]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ModelError(
            f"invalid {directory / MODULES}: {', '.join(kinds)}; expected Transformer, Pooling and optionally Normalize"
        )
    path = directory / POOLING / CONFIG
    return Pooling((-1,), _find_strategy(path), len(kinds) == 3, length)


NO_LIMIT = 10**6


def _read_modules(path: Path) -> list[dict[str, Any]]:
    modules = _load(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"invalid {path}: expected a list of modules")
    for module, place in zip(modules, ("", POOLING), strict=False):
        if module.get("path") != place:
            raise ModelError(f"invalid path in {path}: {module.get('path')!r}; expected {place!r}")
    return modules


def _find_strategy(path: Path) -> str:
    config = read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:  # in older files, a field for each
        fields = [field.removeprefix("pooling_mode_") for field, value in config.items() if value is True]
        modes = [field.removesuffix("_token").removesuffix("_tokens") for field in fields if field != "include_prompt"]
    found = [modes] if isinstance(modes, str) else modes
    if not isinstance(found, list) or len(found) != 1 or found[0] not in STRATEGIES:
        raise ModelError(f"invalid pooling_mode in {path}: {modes!r}; expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[found[0]]


def read_json(path: Path) -> dict[str, Any]:
    """Reads an object. Raises ModelError that names the file."""
    content = _load(path)
    if not isinstance(content, dict):
        raise ModelError(f"invalid {path}: expected a JSON object")
    return content


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"invalid {path}: not JSON: {error}") from None


def _object(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise ModelError(f"invalid {name}: expected an object")
    return value


def _expect(content: Mapping[str, Any], name: str, value: object) -> None:
    given = content.get(name.rpartition(".")[2])
    if given != value:
        raise ModelError(f"invalid {name}: {given!r}; expected {value!r}")


def _flag(content: Mapping[str, Any], name: str, *, optional: bool = False) -> bool | None:
    value = content.get(name)
    if not (isinstance(value, bool) or (optional and value is None)):
        raise ModelError(f"invalid {name}: {value!r}; expected true or false")
    return value
