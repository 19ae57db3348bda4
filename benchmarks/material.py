"""Makes the shared input of the benchmarks: danmaku in a fixed order, and a model of Google's base size."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from service.model_directory import BertConfig, encoder_shapes

ROOT = Path(__file__).parents[1]


def read_texts(path: Path | None, count: int) -> list[str]:
    """Reads distinct texts in a fixed order; without a path, makes pairs of training/pictures/words.txt."""
    if path:
        lines = sorted({line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()})
    else:
        words = (ROOT / "training" / "pictures" / "words.txt").read_text(encoding="utf-8").split()
        lines = sorted({f"{first} {second}" for first in words for second in words})
    random.Random(0).shuffle(lines)
    return lines[:count]


def random_base_model(directory: Path, **changes: int) -> Path:
    """Writes a BERT-base with random weights and the bundled vocabulary: speed does not depend on the weights."""
    from training.bert import checkpoint

    vocab = (ROOT / "models" / "danmaku-bert-mini" / "vocab.txt").read_text(encoding="utf-8")
    config = BertConfig(vocab_size=vocab.count("\n"), **changes)
    values = np.random.default_rng(0)
    weights = {
        name: (values.standard_normal(shape, np.float32) * np.float32(0.02)) + np.float32(name.endswith("gamma"))
        for name, shape in encoder_shapes(config).items()
    }
    checkpoint.write(directory / "bert_model.ckpt", weights)
    (directory / "bert_config.json").write_text(config.to_json(), encoding="utf-8")
    (directory / "vocab.txt").write_text(vocab, encoding="utf-8")
    return directory
