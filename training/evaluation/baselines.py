"""Baselines of `evaluate --retrieval`: cheaper ways to turn danmaku into vectors.

Each function here learns from lines and returns a function from texts to rows of length 1, dense or sparse. A text that
is unknown to a baseline gets a row of 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from training.alignment.cooccurrence import Cooccurrence
from training.alignment.ngrams import without_spaces
from training.alignment.timed_lines import TimedLines
from training.evaluation.space import Matrix

Embed = Callable[[list[str]], Matrix]


def embed_tfidf(lines: TimedLines) -> Embed:
    """Weighs characters by how few distinct danmaku have them, so that near danmaku are spelled alike."""
    vectorizer = TfidfVectorizer(analyzer="char", preprocessor=without_spaces).fit(lines.texts)
    return lambda texts: vectorizer.transform(texts).tocsr()


def embed_cooccurrence(model: Cooccurrence) -> Embed:
    """Looks up the vectors of frequent danmaku as a whole; any other danmaku is unknown."""
    row_of = {model.lines.texts[text]: row for row, text in enumerate(model.rows)}

    def embed(texts: list[str]) -> np.ndarray:
        rows = np.array([row_of.get(text, -1) for text in texts])
        return np.where(rows[:, None] < 0, 0.0, model.vectors[rows]).astype(np.float32)

    return embed
