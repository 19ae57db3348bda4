"""Our worker and the genuine bert-serving-server 1.10 on one checkpoint, both over ZMQ: the same tokens and vectors.

    make classic
    DANMAKU_CLASSIC_PYTHON=.venv-classic/bin/python .venv/bin/pytest tests/classic/test_worker_parity.py

Fifty pairs of servers one after the other, a quarter of an hour: not part of `make test`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import genuine, working

from service.encoders.options import POOLING_STRATEGIES
from service.model_directory import BertConfig
from service.tokenizer import read_vocab

PYTHON = os.environ.get("DANMAKU_CLASSIC_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="DANMAKU_CLASSIC_PYTHON names no Python of a `make classic`")

VOCAB = Path(__file__).parents[2] / "models/danmaku-bert-mini/vocab.txt"
MOST = 1e-4
LAYERS = (("-1",), ("-2",), ("-12",), ("-1", "-2"))
CASES = [
    (strategy, layers, masked)
    for strategy in POOLING_STRATEGIES
    for layers in (LAYERS if strategy != "CLS_POOLED" else LAYERS[:1])
    for masked in (False, True)
]
PIECES = {
    "chinese": ["草", "晚安", "来了来了", "好听", "前方高能", "下次一定", "才八点", "耻辱下播", "泪目", "名场面"],
    "japanese": ["かわいい", "てぇてぇ", "ありがとう", "スパチャ", "お疲れ様", "ペコ", "草生える"],
    "latin": ["awsl", "AWSL", "kksk", "nice", "gg", "Aqua", "yyut", "naïve", "ＯＫ"],
    "numbers": ["233333", "88888", "666", "774", "1/2", "3.14"],
    "emoji": ["😂", "🐶", "❤️", "👍🏻", "𠮷"],
    "kaomoji": ["(´;ω;`)", "_(:з」∠)_", "(ﾟ∀ﾟ)", "╮(╯▽╰)╭", "orz", "？？？", "！！"],
    "blanks": ["哈 哈 哈", "a  b", "\u3000晚 安\u3000", "草\tawsl"],
}


def danmaku(count: int, seed: int = 1) -> list[str]:
    """Returns invented danmaku of every kind; one in twenty is longer than a worker accepts."""
    rng = random.Random(seed)
    kinds = list(PIECES.values())
    texts = []
    for index in range(count):
        pieces = 40 if index % 20 == 0 else rng.randint(1, 4)
        kind = kinds[index % len(kinds)]
        texts.append("".join(rng.choice(kind if rng.random() < 0.7 else rng.choice(kinds)) for _ in range(pieces)))
    return texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model of twelve layers with random weights, large enough for differences to show."""
    from training.bert import checkpoint
    from training.bert.model import initial_values

    directory = tmp_path_factory.mktemp("parity")
    vocab = read_vocab(VOCAB)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=96,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=384,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    (directory / "bert_config.json").write_text(config.to_json(), encoding="utf-8")
    (directory / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    checkpoint.save(directory, 1, initial_values(config, seed=7), {"global_step": 1})
    yield directory


@pytest.mark.parametrize(("strategy", "layers", "masked"), CASES)
def test_tokens_and_vectors_are_the_genuine_ones(
    model: Path, strategy: str, layers: tuple[str, ...], masked: bool
) -> None:
    texts = danmaku(512)
    flags = ["-ckpt_name", "model.ckpt-1", "-show_tokens_to_client", "-pooling_strategy", strategy]
    flags += ["-pooling_layer", *layers, *(["-mask_cls_sep"] if masked else [])]
    with genuine(PYTHON, model, *flags) as reference, working(model, *flags) as ours:
        answers = []
        for server in (reference, ours):
            with server.client(check_length=False, timeout=60_000) as client:
                answers.append(client.encode(texts, show_tokens=True))

    (expected, expected_tokens), (vectors, tokens) = answers
    assert tokens == expected_tokens
    assert vectors.shape == expected.shape
    difference = float(np.abs(vectors - expected).max())
    print(
        f"{strategy} {' '.join(layers)}{' masked' if masked else ''}: {difference:.1e} of {np.abs(expected).max():.1f}"
    )
    assert difference <= MOST
