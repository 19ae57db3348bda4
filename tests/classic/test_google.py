"""Our model, tokens and records against Google's own code, as bert-serving-server 1.10 carries it.

Needs an environment of its own (the extra `classic` of pyproject.toml), whose Python DANMAKU_CLASSIC_PYTHON names.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CLASSIC_PYTHON = os.environ.get("DANMAKU_CLASSIC_PYTHON")  # read before a fixture takes such settings away
pytestmark = pytest.mark.skipif(
    CLASSIC_PYTHON is None,
    reason="DANMAKU_CLASSIC_PYTHON does not name the Python of an environment with the extra `classic`",
)
PROGRAM = Path(__file__).parent / "reference.py"
REPOSITORY = Path(__file__).parents[2]
TOLERANCE = 1e-5


def google(*arguments: object) -> str:
    assert CLASSIC_PYTHON is not None
    command = [CLASSIC_PYTHON, str(PROGRAM), *map(str, arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns Google's outputs and ours for one model of random weights and texts of several lengths."""
    from service.model_directory import BertConfig
    from training.bert import checkpoint, model

    directory = tmp_path_factory.mktemp("forward")
    config = BertConfig(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=40,
        initializer_range=0.1,
    )
    rng = np.random.default_rng(0)
    weights = {
        name: value + 0.05 * rng.standard_normal(value.shape, np.float32)
        for name, value in model.initial_values(config, 1).items()
    }
    inputs: dict[str, Any] = {
        "input_ids": rng.integers(0, 500, (6, 32)).astype(np.int32),
        "input_mask": (np.arange(32) < rng.integers(5, 33, (6, 1))).astype(np.int32),
        "segment_ids": rng.integers(0, 2, (6, 32)).astype(np.int32),
        "masked_lm_positions": rng.integers(0, 5, (6, 4)).astype(np.int32),
    }
    (directory / "bert_config.json").write_text(config.to_json(), encoding="utf-8")
    checkpoint.write(directory / "model.ckpt-1", weights)
    np.savez(directory / "inputs.npz", **inputs)
    google("forward", directory)

    import tensorflow as tf

    hidden = model.encode(weights, config, inputs["input_ids"], inputs["input_mask"], inputs["segment_ids"])
    ours = {f"layer_{number}": layer for number, layer in enumerate(hidden)}
    scores = model.masked_lm_logits(weights, hidden[-1], inputs["masked_lm_positions"])
    ours["masked_lm_log_probs"] = tf.reshape(tf.nn.log_softmax(scores), [-1, 500])
    ours["next_sentence_log_probs"] = tf.nn.log_softmax(model.next_sentence_logits(weights, hidden[-1]))
    return dict(np.load(directory / "outputs.npz")), {name: value.numpy() for name, value in ours.items()}


def test_every_layer_and_both_heads_equal_googles(
    outputs: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> None:
    """Google's code loads our checkpoint; its outputs equal ours to 1e-5."""
    theirs, ours = outputs
    assert theirs.keys() == ours.keys() and len(ours) == 7
    worst = {name: float(np.abs(theirs[name] - ours[name]).max()) for name in ours}
    print(worst)
    assert max(worst.values()) <= TOLERANCE, worst


def test_tokens_equal_googles(tmp_path: Path) -> None:
    """Uses the bundled vocabulary on invented danmaku and unusual Unicode."""
    from service.tokenizer import Tokenizer

    vocab = REPOSITORY / "models/danmaku-bert-mini/vocab.txt"
    golden = json.loads((REPOSITORY / "tests/data/google_tokens.json").read_text(encoding="utf-8"))
    texts = [text for text, _ in golden["ids"]]
    for path in sorted((REPOSITORY / "tests/data/danmaku").rglob("*.csv")):
        texts += [line.rsplit(",", 2)[0] for line in path.read_text(encoding="utf-8").splitlines()]
    (tmp_path / "vocab.txt").write_bytes(vocab.read_bytes())
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    google("tokens", tmp_path)
    theirs = json.loads((tmp_path / "ids.json").read_text(encoding="utf-8"))
    assert theirs == Tokenizer.from_file(vocab).ids(texts)


def test_google_reads_our_records(tmp_path: Path) -> None:
    """Features, types and lengths are those that run_pretraining.py declares, also with whole-word masks."""
    from training.examples.records import write_shard
    from training.examples.sentence_pairs import make_examples
    from training.examples.settings import ExampleSettings, Vocabulary

    documents = [[[10 + 5 * line + token for token in range(4)] for line in range(6)] for _ in range(3)]
    settings = ExampleSettings(max_seq_length=24, max_predictions_per_seq=5, masking="wwm")
    made = make_examples(documents, settings, Vocabulary(100, 0, 2, 3, 4, 5), np.random.default_rng(0))
    write_shard(tmp_path / "train.tfrecord", made)
    rows = json.loads(google("records", tmp_path / "train.tfrecord", 24, 5))
    assert len(rows) == len(made["input_ids"])
    for number, row in enumerate(rows):
        assert row == {name: made[name][number].tolist() for name in row}
        assert len(row) == 7
