"""The engine against bert-serving-server 1.10's own code: the same tokens, and vectors to rounding.

Needs an environment of its own (the extra `classic` of pyproject.toml), whose Python DANMAKU_CLASSIC_PYTHON names.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.tokenizer import SPECIAL_TOKENS

CLASSIC_PYTHON = os.environ.get("DANMAKU_CLASSIC_PYTHON")  # read before a fixture takes such settings away
pytestmark = [
    pytest.mark.skipif(
        CLASSIC_PYTHON is None,
        reason="DANMAKU_CLASSIC_PYTHON does not name the Python of an environment with the extra `classic`",
    ),
    pytest.mark.timeout(900),
]
PROGRAM = Path(__file__).parent / "genuine_vectors.py"
TOLERANCE = 1e-4

CHINESE = "草哈啊我的你好了来是不这个大家晚安可爱天使笑死真前方高能泪目名场面经典下次一定阿夸狐狸"
JAPANESE = "おはようございますかわいい助草生初見アクアガバ゙"
FACES = ("(´・ω・`)", "ヾ(≧▽≦*)o", "Σ(っ °Д °;)っ", "orz", "QAQ", "( ͡° ͜ʖ ͡°)", "╮(╯▽╰)╭", "_(:з」∠)_")
EMOJI = ("😂", "❤️", "👍🏻", "👨‍👩‍👧", "🦊", "🤣")
WORDS = (
    "awsl",
    "AWSL",
    "aqua",
    "Mea",
    "kksk",
    "café",
    "ＦＢＩ",
    "p2",
    "BGM",
    "!!!",
    "？？？",
    "。。。",
    "23333",
    "hhhh",
    "x^2",
)


def danmaku(count: int, seed: int = 1) -> list[str]:
    """Returns invented danmaku of every kind."""
    rng = random.Random(seed)
    kinds = (
        lambda: "".join(rng.choices(CHINESE, k=rng.randint(1, 12))),
        lambda: "".join(rng.choices(JAPANESE, k=rng.randint(1, 10))),
        lambda: rng.choice(CHINESE) * rng.randint(1, 20),
        lambda: rng.choice(FACES) + rng.choice(("", "草", " awsl")),
        lambda: "".join(rng.choices(EMOJI, k=rng.randint(1, 4))) + rng.choice(("", "哈哈")),
        lambda: "2" + "3" * rng.randint(1, 130),
        lambda: rng.choice(("h", "啊", "6", "w")) * rng.randint(20, 130),
        lambda: rng.choice((" ", "  ", "\u3000", "\t")).join(rng.choices((*WORDS, *CHINESE), k=rng.randint(2, 6))),
        lambda: "".join(rng.choices((*WORDS, *CHINESE, *JAPANESE, *EMOJI), k=rng.randint(2, 30))),
        lambda: f" {rng.choice(WORDS)}\u200b{rng.choice(CHINESE)}\n",
    )
    return [kinds[number % len(kinds)]() for number in range(count)]


TEXTS = danmaku(240)
PAIRS = [f"{a}{bar}{b}" for a, b in zip(danmaku(40, 2), danmaku(40, 3), strict=True) for bar in (" ||| ", "|||")]
TOKENS = [text.split() for text in TEXTS]
TOKEN_PAIRS = [[*tokens[:3], "|||", *tokens[3:]] for tokens in TOKENS]


@dataclass(frozen=True)
class Case:
    options: EncoderOptions
    inputs: list[Any]

    def flags(self, model: Path) -> list[str]:
        options = self.options
        names = ("mask_cls_sep", "cased_tokenization", "no_special_token", "no_position_embeddings")
        length = "NONE" if options.max_seq_len is None else str(options.max_seq_len)
        layers = [str(layer) for layer in options.pooling_layer]
        return [
            *("-model_dir", str(model), "-pooling_layer", *layers),
            *("-pooling_strategy", options.pooling_strategy, "-max_seq_len", length),
            *(f"-{name}" for name in names if getattr(options, name)),
        ]


def cases() -> list[Case]:
    strategies = ("NONE", "REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED")
    made = [
        Case(EncoderOptions(layers, strategy, mask_cls_sep=masked, max_seq_len=25), TEXTS)
        for strategy in strategies
        for layers in ((-1,), (-2,), (-12,), (-1, -2))
        for masked in (False, True)
        if strategy != "CLS_POOLED" or layers == (-1,)
    ]
    for masked in (False, True):
        plain = EncoderOptions(mask_cls_sep=masked, max_seq_len=25)
        pairs = EncoderOptions(mask_cls_sep=masked, max_seq_len=25, sentence_pairs=True)
        made += [
            Case(EncoderOptions(mask_cls_sep=masked, max_seq_len=None), TEXTS),
            Case(EncoderOptions(mask_cls_sep=masked, max_seq_len=25, cased_tokenization=True), TEXTS),
            Case(EncoderOptions(mask_cls_sep=masked, max_seq_len=25, no_position_embeddings=True), TEXTS),
            Case(plain, TOKENS),
            Case(EncoderOptions(mask_cls_sep=masked, max_seq_len=25, no_special_token=True), TOKENS),
            Case(EncoderOptions((-2,), "SEP_TOKEN", masked, 25, no_special_token=True), TOKENS),
            Case(pairs, PAIRS),
            Case(pairs, TOKEN_PAIRS),
            Case(EncoderOptions((-2,), "SEP_TOKEN", masked, 25, sentence_pairs=True), PAIRS),
            Case(EncoderOptions(mask_cls_sep=masked, max_seq_len=8, sentence_pairs=True), PAIRS),
            Case(EncoderOptions(no_special_token=True, max_seq_len=25, sentence_pairs=True), TOKEN_PAIRS),
        ]
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 12 layers × 64 without zeros, with a vocabulary that spells most of the texts."""
    from service.model_directory import BertConfig, pooled_encoder_shapes
    from training.bert import checkpoint

    directory = tmp_path_factory.mktemp("models")
    pieces = [
        "awsl",
        "aqua",
        "mea",
        "AWSL",
        "kk",
        "##sk",
        "##3",
        "##333",
        "hh",
        "##hh",
        "##ww",
        "w",
        "café",
        "cafe",
        "or",
    ]
    characters = sorted(set("".join(TEXTS)) - set(" \t\n\u3000\u200b狐❤"))
    japanese = [f"##{character}" for character in JAPANESE]
    vocab = list(dict.fromkeys([*SPECIAL_TOKENS, *pieces, *characters, *japanese]))
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=64,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=40,
    )
    random_values = np.random.default_rng(9)
    weights = {
        name: (random_values.normal(0, 0.15, shape) + name.endswith("gamma")).astype(np.float32)
        for name, shape in pooled_encoder_shapes(config).items()
    }
    checkpoint.write(directory / "bert_model.ckpt", weights)
    (directory / "bert_config.json").write_text(config.to_json(), encoding="utf-8")
    (directory / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return directory


def test_tokens_and_vectors_are_those_of_the_genuine_server(model: Path, tmp_path: Path) -> None:
    """Covers every strategy, several layers, masks, pairs, token lists, cased text, and no positions."""
    asked = cases()
    question = {"flags": [case.flags(model) for case in asked], "inputs": [case.inputs for case in asked]}
    (tmp_path / "cases.json").write_text(json.dumps(question), encoding="utf-8")
    assert CLASSIC_PYTHON is not None
    command = [CLASSIC_PYTHON, str(PROGRAM), str(tmp_path / "cases.json"), str(tmp_path / "vectors.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "vectors.npz") as archive:
        genuine = [archive[f"vectors_{number}"] for number in range(len(asked))]
        tokens = json.loads(str(archive["tokens"]))

    worst = 0.0
    for case, expected, expected_tokens in zip(asked, genuine, tokens, strict=True):
        encoder = OnnxEncoder.open(model, case.options, threads=1)
        of = encoder.inputs.prepare_texts if isinstance(case.inputs[0], str) else encoder.inputs.prepare_tokens
        rows = of(case.inputs)
        assert [encoder.inputs.tokens(row) for row in rows] == expected_tokens, case.options
        vectors = encoder.encode_now(rows)
        encoder.close()
        if case.options.strategy == "NONE":  # ours ends with the longest text of the call, theirs at max_seq_len
            assert not expected[:, vectors.shape[1] :].any()
            expected = expected[:, : vectors.shape[1]]
        difference = float(np.abs(vectors - expected).max())
        assert difference < TOLERANCE, (case.options, difference)
        worst = max(worst, difference)
    print(f"\n{len(asked)} cases, largest difference {worst:.1e}")
