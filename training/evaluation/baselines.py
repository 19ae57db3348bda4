"""Baselines of `evaluate --retrieval`: cheaper ways to turn danmaku into vectors.

Each function here learns from lines and returns a function from texts to rows of length 1, dense or sparse. A text that
is unknown to a baseline gets a row of 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from training.alignment.cooccurrence import Cooccurrence
from training.alignment.timed_lines import TimedLines
from training.evaluation.space import Matrix

Embed = Callable[[list[str]], Matrix]

MIN_NGRAM_TEXTS = 5  # distinct frequent danmaku that an n-gram needs to get a vector


def embed_tfidf(lines: TimedLines) -> Embed:
    """Weighs characters by how few distinct danmaku have them, so that near danmaku are spelled alike."""
    vectorizer = TfidfVectorizer(analyzer="char", preprocessor=_without_spaces).fit(lines.texts)
    return lambda texts: vectorizer.transform(texts).tocsr()


def embed_cooccurrence(model: Cooccurrence) -> Embed:
    """Looks up the vectors of frequent danmaku as a whole; any other danmaku is unknown."""
    row_of = {model.lines.texts[text]: row for row, text in enumerate(model.rows)}

    def embed(texts: list[str]) -> np.ndarray:
        rows = np.array([row_of.get(text, -1) for text in texts])
        return np.where(rows[:, None] < 0, 0.0, model.vectors[rows]).astype(np.float32)

    return embed


def embed_ngrams(model: Cooccurrence) -> Embed:
    """Sums the vectors of a danmaku's character n-grams, so that an unseen danmaku has a vector, too.

    As in fastText (P. Bojanowski et al., Enriching word vectors with subword information, TACL 5 (2017) 135-146) a text
    is the sum of its n-grams, here of one to three characters. They are learned not by sampling but by least squares,
    so that the sums approximate the co-occurrence vectors of frequent danmaku: what `align` learns from, without BERT.
    """
    vectorizer = TfidfVectorizer(
        analyzer="char", preprocessor=_without_spaces, ngram_range=(1, 3), min_df=MIN_NGRAM_TEXTS, sublinear_tf=True
    )
    ngrams = vectorizer.fit_transform([model.lines.texts[text] for text in model.rows])  # [r, g]
    ridge = Ridge(alpha=1.0, fit_intercept=False, solver="sparse_cg", tol=1e-3)
    weights = np.log1p(
        model.lines.counts[model.rows]
    )  # the vector of a danmaku that was seen more often is more certain
    ridge.fit(ngrams, model.vectors, sample_weight=weights)
    return lambda texts: normalize_rows(vectorizer.transform(texts) @ ridge.coef_.T)


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


def _without_spaces(text: str) -> str:
    return text.replace(" ", "")
