"""What a model is held against in `evaluate --retrieval`: ways to turn danmaku into vectors that need no encoder.

Each is a function from texts to rows of length 1, dense or sparse; a text of which it knows nothing is a row of 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from training.alignment.cooccurrence import Cooccurrence
from training.alignment.timed_lines import TimedLines

Matrix = Any  # np.ndarray, or scipy's csr_matrix, which has no types
Embed = Callable[[list[str]], Matrix]

TEXTS_PER_CALL = 128
WHITENING_TEXTS = 10_000


def tfidf(lines: TimedLines) -> Embed:
    """Characters, weighted by how few distinct danmaku have them: what is near is what is written alike."""
    vectorizer = TfidfVectorizer(analyzer="char", preprocessor=_without_spaces).fit(lines.texts)
    return lambda texts: vectorizer.transform(texts).tocsr()


def cooccurrence(model: Cooccurrence) -> Embed:
    """Vectors of frequent danmaku as wholes: any other is unknown."""
    row_of = {model.lines.texts[text]: row for row, text in enumerate(model.rows)}

    def embed(texts: list[str]) -> np.ndarray:
        rows = np.array([row_of.get(text, -1) for text in texts])
        return np.where(rows[:, None] < 0, 0.0, model.vectors[rows]).astype(np.float32)

    return embed


def encoder(directory: Path) -> Embed:
    """A model directory as the service opens it when nothing is set."""

    def embed(texts: list[str]) -> np.ndarray:
        with (
            closing(OnnxEncoder.open(directory, EncoderOptions(), threads=1)) as opened,
            ThreadPoolExecutor(os.cpu_count()) as executor,
        ):
            prepared = opened.inputs.prepare_texts(texts)
            order = sorted(range(len(texts)), key=lambda number: len(prepared[number].ids))
            parts = [order[start : start + TEXTS_PER_CALL] for start in range(0, len(order), TEXTS_PER_CALL)]
            calls = executor.map(lambda part: opened.encode_now([prepared[number] for number in part]), parts)
            vectors = np.zeros((len(texts), opened.model.dim), np.float32)
            for part, found in zip(parts, calls, strict=True):
                vectors[part] = found
            vectors[[not text.is_spelled for text in prepared]] = 0.0
            return unit(vectors)

    return embed


def whitened(embed: Embed, lines: TimedLines) -> Embed:
    """Shifted and turned so that the vectors of distinct danmaku spread evenly (arXiv 2103.15316)."""
    rng = np.random.default_rng(0)
    some = rng.choice(len(lines.texts), min(WHITENING_TEXTS, len(lines.texts)), replace=False)
    sample: np.ndarray = np.asarray(embed([lines.texts[text] for text in some]))
    centre = sample.mean(0)
    values, axes = np.linalg.eigh(np.cov((sample - centre).T))
    turn = axes / np.sqrt(np.maximum(values, 1e-6))

    def embed_whitened(texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = np.asarray(embed(texts))
        return unit(np.where(vectors.any(1, keepdims=True), vectors - centre, 0.0) @ turn)

    return embed_whitened


def shortened(embed: Embed, dim: int) -> Embed:
    """The first numbers of the vectors alone, as who stores many of them may keep."""
    return lambda texts: unit(embed(texts)[:, :dim])


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


def _without_spaces(text: str) -> str:
    return text.replace(" ", "")
