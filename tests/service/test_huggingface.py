"""Model directories of Hugging Face's libraries: their vectors are equal, and defects are named."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from huggingface_layouts import LAYOUTS, TEXTS, VOCAB, make
from safetensors.numpy import load_file, save_file

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.errors import ConfigurationError
from service.model_directory import open_model_directory
from service.tokenizer import read_vocab

# Written by tests/clients/sentence_vectors.py.
FROZEN = json.loads((Path(__file__).parents[1] / "data/huggingface_vectors.json").read_text(encoding="utf-8"))

DAMAGE = (b"", b"0", b"9999999999", b"-1", b"null", b"[]", b'"', b"\xff", b"\0", b"1e999", b"NaN")


def encode(directory: Path, options: EncoderOptions | None = None) -> np.ndarray:
    with closing(OnnxEncoder.open(directory, options or EncoderOptions(), threads=1)) as encoder:
        return encoder.encode_now(encoder.inputs.prepare_texts(TEXTS))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, layout: str) -> None:
    ours = encode(make(tmp_path / layout, layout))

    np.testing.assert_allclose(ours, FROZEN["vectors"][layout], atol=1e-5)


def test_settings_override_the_models_options(tmp_path: Path) -> None:
    bge = make(tmp_path / "bge", "bge")
    own = OnnxEncoder.open(bge, EncoderOptions(), threads=1)
    other = OnnxEncoder.open(bge, EncoderOptions((-2,), "REDUCE_MEAN", max_seq_len=20), threads=1)

    assert (own.model.pooling_strategy, own.model.pooling_layer, own.model.max_seq_len) == ("CLS_TOKEN", (-1,), 12)
    assert (other.model.pooling_strategy, other.model.pooling_layer, other.model.max_seq_len) == (
        *("REDUCE_MEAN", (-2,)),
        20,
    )
    assert own.model.fingerprint != other.model.fingerprint


def change(name: str, **changes: object) -> Callable[[Path], object]:
    def apply(directory: Path) -> None:
        path = directory / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for field, value in changes.items():
            *scopes, last = field.split("__")
            part = content
            for scope in scopes:
                part = part[scope]
            part[last] = value
        path.write_text(json.dumps(content), encoding="utf-8")

    return apply


def change_weights(**changes: np.ndarray | None) -> Callable[[Path], object]:
    def apply(directory: Path) -> None:
        weights = load_file(directory / "model.safetensors")
        for name, value in changes.items():
            name = name.replace("__", ".")
            if value is None:
                del weights[name]
            else:
                weights[name] = value
        save_file(weights, directory / "model.safetensors")

    return apply


def leave_only_a_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("config.json", model_type="roberta"), "invalid model_type: 'roberta'; expected 'bert'"),
        (change("config.json", position_embedding_type="relative_key"), "invalid position_embedding_type"),
        (change("config.json", is_decoder=True), "invalid is_decoder: True; expected False"),
        (change("config.json", hidden_act="silu"), "invalid hidden_act: 'silu'; expected one of gelu"),
        (change("config.json", layer_norm_eps="tiny"), "invalid layer_norm_eps: 'tiny'"),
        (change("config.json", num_hidden_layers=10**9), "invalid num_hidden_layers: 1000000000; expected .* to 1000"),
        (change("config.json", hidden_size=2.5), "invalid hidden_size: 2.5; expected a whole number"),
        (change("config.json", vocab_size=10**12), "invalid vocab_size: 1000000000000"),
        (change("config.json", vocab_size=30), "has 34 tokens, but its configuration says vocab_size 30"),
        (change("config.json", num_hidden_layers=3), r"has no tensor encoder\.layer\.2"),
        (change("config.json", intermediate_size=8), r"invalid shape of .*: \[16, 32\]; expected \[16, 8\]"),
        (change("config.json", matryoshka_dimensions=[64]), "invalid matryoshka_dimensions"),
        (change("config.json", quantization_config={"bits": 4}), "invalid quantization_config"),
        (change("tokenizer.json", model__type="BPE"), "invalid model.type: 'BPE'; expected 'WordPiece'"),
        (change("tokenizer.json", normalizer__type="NFKC"), "invalid normalizer.type"),
        (change("tokenizer.json", normalizer__lowercase="no"), "invalid lowercase: 'no'; expected true or false"),
        (change("tokenizer.json", model__vocab={"草": 7}), "invalid model.vocab: expected the ids 0, 1"),
        (change("tokenizer.json", added_tokens=[{"content": "[E1]"}]), r"invalid added_tokens: '\[E1\]'"),
        (change("1_Pooling/config.json", pooling_mode_max_tokens=True), "invalid pooling_mode"),
        (change("1_Pooling/config.json", pooling_mode="weightedmean"), "invalid pooling_mode .*'weightedmean'"),
        (change("sentence_bert_config.json", max_seq_length="long"), "invalid max_seq_length"),
        (change("sentence_bert_config.json", max_seq_length=512), "invalid max_seq_len: 512; expected 3 to 24"),
        (change("sentence_bert_config.json", do_lower_case=True), "invalid do_lower_case .* expected false"),
        (
            change("config_sentence_transformers.json", default_prompt_name="query"),
            "invalid default_prompt_name .*'query'; expected none",
        ),
        (lambda path: (path / "modules.json").write_text('[{"path": "", "type": "x.Dense"}]'), "modules.json: Dense;"),
        (lambda path: (path / "modules.json").write_text("{}"), "expected a list of modules"),
        (lambda path: (path / "config.json").write_text("[" * 100_000), "config.json: not JSON"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x" * 50), "cannot read .*model.safetensors"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (
            change_weights(embeddings__LayerNorm__bias=np.full(16, np.nan, np.float32)),
            r"embeddings\.LayerNorm\.bias is not finite",
        ),
        (change_weights(embeddings__LayerNorm__bias=None), r"has no tensor embeddings\.LayerNorm\.bias"),
        (leave_only_a_pickle, r"pytorch_model\.bin.*from transformers import AutoModel; .*save_pretrained"),
    ],
)
def test_an_error_names_what_is_wrong(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    directory = make(tmp_path / "bge", "bge")
    spoil(directory)

    with pytest.raises(ConfigurationError, match=message):
        OnnxEncoder.open(directory, EncoderOptions(), threads=1)


def test_weights_in_half_precision_are_read(tmp_path: Path) -> None:
    directory = make(tmp_path / "bge", "bge")
    exact = encode(directory)
    weights = load_file(directory / "model.safetensors")
    save_file({name: value.astype(np.float16) for name, value in weights.items()}, directory / "model.safetensors")

    np.testing.assert_allclose(encode(directory), exact, atol=0.01)


def test_a_model_that_keeps_case_has_another_fingerprint(tmp_path: Path) -> None:
    lower, cased = make(tmp_path / "lower", "text2vec"), make(tmp_path / "cased", "text2vec")
    change("tokenizer_config.json", do_lower_case=False)(cased)
    encoders = [OnnxEncoder.open(path, EncoderOptions(), threads=1) for path in (lower, cased)]

    assert [encoder.model.reader.normalize("AWSL é") for encoder in encoders] == ["awsl é", "AWSL é"]
    assert encoders[0].model.fingerprint != encoders[1].model.fingerprint


def test_a_vocabulary_may_have_a_byte_order_mark_and_blanks_at_the_ends_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "".join(f"{token} \r\n" for token in VOCAB).encode() + b"\n")

    assert read_vocab(path) == VOCAB


def test_googles_files_have_precedence(tiny_model: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(tiny_model, tmp_path / "both"))
    shutil.copytree(make(tmp_path / "bge", "bge"), both, ignore=shutil.ignore_patterns("vocab.txt"), dirs_exist_ok=True)

    assert open_model_directory(both).digest == open_model_directory(tiny_model).digest


@pytest.mark.parametrize("layout", [*LAYOUTS, "google"])
def test_a_damaged_directory_is_an_error_or_a_model_that_works(tiny_model: Path, tmp_path: Path, layout: str) -> None:
    """Never a traceback: files are cut off, and bytes in them are changed."""
    rng = random.Random(layout)
    whole = tiny_model if layout == "google" else make(tmp_path / "whole", layout)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    for _ in range(40):
        damaged = Path(shutil.copytree(whole, tmp_path / "damaged", dirs_exist_ok=True))
        path = damaged / rng.choice(files)
        content = bytearray(path.read_bytes())
        at = rng.randrange(len(content))
        content[at : rng.choice((at, at + 1, at + 9, len(content)))] = rng.choice(DAMAGE)
        path.write_bytes(content)
        with suppress(ConfigurationError):
            encode(damaged)
