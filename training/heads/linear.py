"""Trains a head on frozen vectors: a logistic regression over the vector and the TF-IDF of the n-grams of each text.

Vectors generalise from a few texts, n-grams separate many texts, and a scale sets how much each counts. A few dozen
texts per label are too few to choose the scale, so it is fixed; with more, a development split or cross-validation
chooses it, and then the strength of the regularisation. The scores of held-out texts determine the temperature (C. Guo
et al., On calibration of modern neural networks, ICML 2017).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, diags, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from service.heads.head import Encoder, Head, Weights, to_probabilities
from service.heads.ngrams import hash_ngrams
from service.vectors import unit
from training.evaluation.space import Matrix
from training.heads.texts import LabelledTexts

BITS = 18
SCALES = (0.0, 0.2, 0.3, 0.5, 1.0)  # of the vector, when the n-grams have length 1
STRENGTHS = (1.0, 3.0, 10.0)  # scikit-learn's C, the inverse of the regularisation
SCALE, STRENGTH = 0.5, 10.0  # if there are too few texts to choose it
ENOUGH = 128  # texts of the rarest label needed to choose it
MANY = 2000  # with this many texts, one development split is enough
FOLDS = 5
RARE_FROM = 1000  # with this many texts, n-grams of a single text are left out: they take space and say almost nothing


@dataclass(frozen=True)
class Choice:
    """The settings of a head, and the results of all that were tried on held-out texts."""

    scale: float
    strength: float
    temperature: float = 1.0
    tried: dict[str, float] = field(default_factory=dict)  # macro-F1 by settings; empty if there were too few texts


@dataclass(frozen=True)
class Parts:
    """The two parts of the features of n texts, before the vectors are scaled."""

    vectors: np.ndarray  # [n, dim], of length 1, less their mean
    ngrams: Matrix  # [n, buckets]; rows have length 1 with the n-grams that are left out

    def join(self, scale: float) -> Matrix:
        """Returns [n, dim + buckets]."""
        return hstack([csr_matrix(scale * self.vectors), self.ngrams]).tocsr()


class Features:
    """Computes features with the mean vector and IDF of the training texts, whose parts are `learned`."""

    def __init__(self, texts: list[str], vectors: np.ndarray) -> None:
        self.middle = unit(vectors).mean(0)
        counts = _count_ngrams(texts)
        documents = np.bincount(counts.indices, minlength=1 << BITS)
        self.idf = np.log((1 + len(texts)) / (1 + documents)) + 1  # as scikit-learn's TfidfVectorizer
        is_kept = documents >= (2 if len(texts) >= RARE_FROM else 1)
        self.buckets = np.flatnonzero(is_kept)
        self.unseen_idf = np.log(1 + len(texts)) + 1
        self.idf[~is_kept] = self.unseen_idf
        self.learned = self._split(counts, vectors)

    def split(self, texts: list[str], vectors: np.ndarray) -> Parts:
        return self._split(_count_ngrams(texts), vectors)

    def _split(self, counts: Matrix, vectors: np.ndarray) -> Parts:
        weighted = counts.multiply(self.idf).tocsr()
        lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
        return Parts(unit(vectors) - self.middle, diags(1 / lengths) @ weighted[:, self.buckets])


def train(
    texts: LabelledTexts, vectors: np.ndarray, encoder: Encoder, choice: Choice, class_weight: str | None
) -> Head:
    """Trains on all the texts, given the encoder's vectors [n, dim]."""
    features = Features(texts.texts, vectors)
    regression = _fit(features.learned, texts.labels, choice.scale, choice.strength, class_weight)
    return _to_head(features, regression, texts.names, encoder, choice)


def choose(
    texts: LabelledTexts, vectors: np.ndarray, class_weight: str | None, held: np.ndarray | None = None
) -> Choice:
    """Chooses scale, strength and temperature on held-out texts.

    These are the texts where `held` [n] is true, or else each part of a cross-validation in turn.
    """
    smallest = int(np.bincount(texts.labels).min())
    if held is not None:
        splits = [(np.flatnonzero(~held), np.flatnonzero(held))]
    else:
        folds = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=0)
        splits = list(folds.split(texts.texts, texts.labels))[: 1 if len(texts) >= MANY else None]
    prepared = []
    for train, test in splits:
        features = Features(texts.select(train).texts, vectors[train])
        prepared.append(
            (features.learned, texts.labels[train], features.split(texts.select(test).texts, vectors[test]))
        )
    truth = texts.labels[np.concatenate([test for _, test in splits])]
    scores: dict[tuple[float, float], np.ndarray] = {}

    def try_out(scale: float, strength: float) -> float:
        found = [
            _score(_fit(learned, labels, scale, strength, class_weight), judged.join(scale))
            for learned, labels, judged in prepared
        ]
        scores[scale, strength] = np.concatenate(found)
        return float(f1_score(truth, scores[scale, strength].argmax(1), average="macro"))

    if smallest < ENOUGH:
        best, tried = (SCALE, STRENGTH), {}
        try_out(*best)
    else:
        values = {(scale, STRENGTH): try_out(scale, STRENGTH) for scale in SCALES}
        scale = max(values, key=values.__getitem__)[0]
        values |= {(scale, strength): try_out(scale, strength) for strength in STRENGTHS if strength != STRENGTH}
        best = max(values, key=values.__getitem__)
        tried = {f"scale {scale}, strength {strength}": round(value, 4) for (scale, strength), value in values.items()}
    return Choice(*best, find_temperature(scores[best], truth), tried)


def find_temperature(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the number to divide scores [n, labels] by so that the probabilities fit the labels [n] best.

    Each label counts as if it were also correct once. Otherwise a few texts, all correct, would make every probability
    1 (J. Platt, Probabilistic outputs for support vector machines, 1999, section 2.2).
    """
    count, labels = scores.shape
    targets = (np.eye(labels)[truth] * count + 1) / (count + labels)

    def loss(log_temperature: float) -> float:
        probabilities = to_probabilities(scores / np.exp(log_temperature))
        return float(-(targets * np.log(np.maximum(probabilities, 1e-12))).sum(1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _fit(
    parts: Parts, labels: np.ndarray, scale: float, strength: float, class_weight: str | None
) -> LogisticRegression:
    regression = LogisticRegression(C=strength, class_weight=class_weight, max_iter=1000)
    return regression.fit(parts.join(scale), labels)


def _score(regression: LogisticRegression, matrix: Matrix) -> np.ndarray:
    """Returns scores [n, labels], also for two labels."""
    scores = regression.decision_function(matrix)
    return np.stack([-scores / 2, scores / 2], 1) if scores.ndim == 1 else scores


def _to_head(
    features: Features, regression: LogisticRegression, names: tuple[str, ...], encoder: Encoder, choice: Choice
) -> Head:
    weights, bias = regression.coef_, regression.intercept_
    if len(names) == 2:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights, bias = weights / choice.temperature, bias / choice.temperature
    dim = len(features.middle)
    vector = choice.scale * weights[:, :dim].T  # [dim, labels]
    idf = features.idf[features.buckets, None]
    return Head(
        names,
        encoder,
        Weights(
            vector.astype(np.float32),
            (bias - features.middle @ vector).astype(np.float32),
            features.buckets.astype(np.uint32),
            np.concatenate([weights[:, dim:].T * idf, idf**2], 1).astype(np.float16),
            unseen=float(features.unseen_idf**2),
            bits=BITS,
        ),
    )


def _count_ngrams(texts: list[str]) -> Matrix:
    """Returns the weights of the n-grams of texts before IDF: [n, 2^BITS]."""
    buckets, weights, starts = hash_ngrams(texts, BITS)
    return csr_matrix((weights.astype(float), buckets, np.append(starts, len(buckets))), (len(texts), 1 << BITS))
