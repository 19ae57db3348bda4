"""What a model is held against in `evaluate --retrieval`: cheaper ways to turn danmaku into vectors.

Each is a function from texts to rows of length 1, dense or sparse; a text of which it knows nothing is a row of 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from training.alignment.cooccurrence import Cooccurrence
from training.alignment.timed_lines import TimedLines
from training.evaluation.space import Matrix

Embed = Callable[[list[str]], Matrix]


def embed_tfidf(lines: TimedLines) -> Embed:
    """Characters, weighted by how few distinct danmaku have them: what is near is what is written alike."""
    vectorizer = TfidfVectorizer(analyzer="char", preprocessor=_without_spaces).fit(lines.texts)
    return lambda texts: vectorizer.transform(texts).tocsr()


def embed_cooccurrence(model: Cooccurrence) -> Embed:
    """Vectors of frequent danmaku as wholes: any other is unknown."""
    row_of = {model.lines.texts[text]: row for row, text in enumerate(model.rows)}

    def embed(texts: list[str]) -> np.ndarray:
        rows = np.array([row_of.get(text, -1) for text in texts])
        return np.where(rows[:, None] < 0, 0.0, model.vectors[rows]).astype(np.float32)

    return embed


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


def _without_spaces(text: str) -> str:
    return text.replace(" ", "")
