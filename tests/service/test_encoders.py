"""The ONNX encoder: the vectors of the model that was trained, whatever shares a batch with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from service.checkpoint import read_checkpoint
from service.encoders.base import Encoder, open_encoder
from service.encoders.graph import POOLING_STRATEGIES
from service.errors import ConfigurationError
from service.model_directory import open_model_directory

TEXTS = ["草", "awsl", "哈哈哈哈", "阿夸aqua", "我死了!", "晚安 晚安", "喵喵 草", "清楚清楚", "2333", "你好可爱"]

Open = Callable[..., Encoder]


@pytest.fixture
def open_tiny(tiny_model: Path) -> Iterator[Open]:
    opened: list[Encoder] = []

    def open_it(**changes: object) -> Encoder:
        settings = {"pooling_layer": (-2,), "pooling_strategy": "REDUCE_MEAN", "max_seq_len": None, "threads": 1}
        encoder = open_encoder(f"onnx://{tiny_model}", **(settings | changes))
        opened.append(encoder)
        return encoder

    yield open_it
    for encoder in opened:
        encoder.close()


async def encode(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """One model call."""
    return await encoder.encode(encoder.prepare([encoder.normalize(text) for text in texts]))


def trained_vectors(model: Path, texts: list[str], layers: tuple[int, ...], strategy: str) -> np.ndarray:
    """The same by the code that trains: TensorFlow, padding and all, pooled as bert-serving-server documents it."""
    import tensorflow as tf

    from service.model_directory import BertConfig
    from service.tokenizer import Tokenizer
    from training.model import encode as bert

    tokenizer = Tokenizer.from_file(model / "vocab.txt")
    rows = [[tokenizer.cls_id, *ids, tokenizer.sep_id] for ids in tokenizer.ids(texts)]
    ids = np.zeros((len(rows), 16), np.int32)
    mask = np.zeros((len(rows), 16), np.int32)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    config = BertConfig.from_json_file(model / "bert_config.json")
    params = read_checkpoint(model / "model.ckpt-1")
    outputs = bert(params, config, tf.constant(ids), tf.constant(mask), tf.zeros_like(ids))
    hidden = np.concatenate([outputs[layer].numpy() for layer in layers], axis=-1)  # [b, t, h]
    texts_hidden = [hidden[row, : len(tokens)] for row, tokens in enumerate(rows)]
    pools = {
        "REDUCE_MEAN": lambda h: h.mean(0),
        "REDUCE_MAX": lambda h: h.max(0),
        "REDUCE_MEAN_MAX": lambda h: np.concatenate([h.mean(0), h.max(0)]),
        "CLS_TOKEN": lambda h: h[0],
        "SEP_TOKEN": lambda h: h[-1],
    }
    return np.stack([pools[strategy](h) for h in texts_hidden])


@pytest.mark.parametrize("strategy", POOLING_STRATEGIES)
@pytest.mark.parametrize("layers", [(-1,), (-2,), (-4,), (-1, -3)])
async def test_served_vectors_are_those_of_the_trained_model(
    open_tiny: Open, tiny_model: Path, layers: tuple[int, ...], strategy: str
) -> None:
    """Every pooling layer and strategy, to rounding."""
    encoder = open_tiny(pooling_layer=layers, pooling_strategy=strategy)
    vectors = await encode(encoder, TEXTS)

    assert vectors.shape == (len(TEXTS), encoder.dim)
    assert np.abs(vectors - trained_vectors(tiny_model, TEXTS, layers, strategy)).max() < 1e-5


@pytest.mark.parametrize("strategy", POOLING_STRATEGIES)
async def test_company_does_not_change_a_vector(open_tiny: Open, strategy: str) -> None:
    """Alone or beside longer texts: the same to rounding."""
    encoder = open_tiny(pooling_strategy=strategy)
    together = await encode(encoder, TEXTS)
    alone = np.concatenate([await encode(encoder, [text]) for text in TEXTS])

    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_what_changes_vectors_changes_the_fingerprint(open_tiny: Open) -> None:
    """And nothing else does: the number of threads is none of it."""
    fingerprints = [
        open_tiny(**changes).fingerprint
        for changes in (
            {},
            {"pooling_layer": (-1,)},
            {"pooling_strategy": "REDUCE_MAX"},
            {"max_seq_len": 8},
        )
    ]

    assert len(set(fingerprints)) == 4
    assert open_tiny(threads=2).fingerprint == fingerprints[0]


def test_the_number_of_heads_is_part_of_the_fingerprint(tiny_model: Path, tmp_path: Path) -> None:
    """No weight's shape tells it, and every vector depends on it."""
    other = Path(shutil.copytree(tiny_model, tmp_path / "tiny"))
    config = json.loads((other / "bert_config.json").read_text(encoding="utf-8"))
    (other / "bert_config.json").write_text(json.dumps(config | {"num_attention_heads": 2}), encoding="utf-8")

    assert open_model_directory(other).digest != open_model_directory(tiny_model).digest


def test_long_texts_lose_their_end_and_say_so(open_tiny: Open) -> None:
    """Up to max_seq_len tokens fit, [CLS] and [SEP] included."""
    encoder = open_tiny(max_seq_len=6)
    fits, too_long = encoder.prepare([encoder.normalize("哈哈哈哈"), encoder.normalize("哈哈哈哈草")])

    assert (fits.num_tokens, fits.is_truncated, too_long.num_tokens, too_long.is_truncated) == (6, False, 6, True)
    assert fits.ids == too_long.ids
    assert [encoder.truncates(encoder.normalize(text)) for text in ("哈哈哈哈", "哈哈哈哈草", "awsl" * 3)] == [
        False,
        True,
        False,
    ]


def test_a_text_of_unknown_characters_is_unspellable(open_tiny: Open) -> None:
    encoder = open_tiny()
    prepared = encoder.prepare([encoder.normalize(text) for text in ("喵喵😂", "喵草")])

    assert [text.is_spelled for text in prepared] == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling_layer": (-5,)}, r"pooling_layer is \[-5\]"),
        ({"pooling_layer": (1,)}, r"pooling_layer is \[1\]"),
        ({"pooling_layer": ()}, r"pooling_layer is \[\]"),
        ({"pooling_strategy": "MEAN"}, "known are REDUCE_MEAN"),
        ({"max_seq_len": 17}, "max_seq_len is 17; .* takes 3 to 16"),
        ({"max_seq_len": 2}, "max_seq_len is 2"),
    ],
)
def test_settings_that_the_model_cannot_follow_are_refused(
    open_tiny: Open, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_tiny(**changes)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected onnx://DIRECTORY"):
        open_encoder("http://x", pooling_layer=(-1,), pooling_strategy="REDUCE_MEAN", max_seq_len=None, threads=1)
