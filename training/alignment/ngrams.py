"""Vectors of danmaku as sums over their character n-grams, which `align` learns from and `evaluate` compares with.

Co-occurrence (cooccurrence.py) has reliable vectors for frequent danmaku only. The n-grams that these share carry their
meaning on to rare danmaku, and average out what one danmaku's few moments had by chance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from service.vectors import unit
from training.alignment.cooccurrence import Cooccurrence
from training.alignment.timed_lines import TimedLines

LONGEST = 4  # characters of an n-gram
MIN_TEXTS = 2  # distinct frequent danmaku that an n-gram needs to get a vector
REGULARISATION = 2.0
TOLERANCE, MOST_ROUNDS = 1e-2, 200  # of the least squares: how small the gradient gets, in at most how many rounds
MOST_TOKENS = 14  # of a danmaku whose vector is learned; longer ones would make every batch long

Embed = Callable[[list[str]], np.ndarray]


def fit(model: Cooccurrence) -> Embed:
    """Returns a function from m texts to their vectors: [m, d], of length 1, or 0 for a text without known n-grams.

    As in fastText (P. Bojanowski et al., Enriching word vectors with subword information, TACL 5 (2017) 135-146) a text
    is the sum of its n-grams. They are learned not by sampling but by least squares, so that the sums approximate the
    co-occurrence vectors of frequent danmaku.
    """
    vectorizer = TfidfVectorizer(
        analyzer="char", preprocessor=without_spaces, ngram_range=(1, LONGEST), min_df=MIN_TEXTS, sublinear_tf=True
    )
    ngrams = vectorizer.fit_transform([model.lines.texts[text] for text in model.rows])  # [r, g]
    # The vector of a danmaku that was seen more often is more certain.
    of_ngrams = _least_squares(ngrams, model.vectors, np.log1p(model.lines.counts[model.rows]))
    return lambda texts: unit(vectorizer.transform(texts) @ of_ngrams)


def choose_danmaku(lines: TimedLines, count: int, seed: int) -> np.ndarray:
    """Returns the numbers of at most `count` short danmaku, half the commonest and half drawn from the rest: [k]."""
    short = np.flatnonzero(np.diff(lines.starts) <= MOST_TOKENS)
    order = short[np.argsort(-lines.counts[short], kind="stable")]
    common, others = np.split(order, [-(-count // 2)])
    return np.concatenate([common, np.random.default_rng(seed).permutation(others)[: count // 2]])


def _least_squares(ngrams: sparse.csr_matrix, vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the vectors of n-grams [g, d] for which the weighted squared error and their size are least.

    Conjugate gradients (M. Hestenes, E. Stiefel, Methods of conjugate gradients for solving linear systems, Journal of
    Research of the NBS 49 (1952) 409-436) on all d columns at once. scikit-learn's solvers for sparse matrices take one
    column after the other, which took fifteen times as long for 32 of them.
    """
    scaled = (sparse.diags(np.sqrt(weights)) @ ngrams).astype(np.float32).tocsr()
    transposed = scaled.T.tocsr()
    residual = transposed @ (np.sqrt(weights)[:, None] * vectors).astype(np.float32)  # [g, d]
    found, direction, size = np.zeros_like(residual), residual.copy(), _dots(residual, residual)
    goal = TOLERANCE**2 * size
    for _ in range(MOST_ROUNDS):
        if (size <= goal).all():
            break
        image = transposed @ (scaled @ direction) + REGULARISATION * direction
        step = size / np.maximum(_dots(direction, image), 1e-20)
        found += step * direction
        residual -= step * image
        before, size = size, _dots(residual, residual)
        direction = residual + size / np.maximum(before, 1e-20) * direction
    return found


def _dots(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the inner products of columns: [g, d], [g, d] → [d]."""
    return np.asarray(np.einsum("gd,gd->d", ones, others))


def without_spaces(text: str) -> str:
    return text.replace(" ", "")
