"""Learns the weights of the evidence for one model, chooses its thresholds, and writes both beside the model.

Everything is learned from the `dev` halves of sameness.tsv and opposites.tsv. The threshold is the lowest at which, by
cross-validation, PRECISION of what is called the same is the same and at most OPPOSITES_MERGED of the opposites are
called so. The regularisation is the one with which most is found at its threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from service.chat.sameness import EVIDENCE, FILE, WITHOUT_COSINE, Judge, Weights, weigh, write_weights
from service.chat.spelling import spell
from service.model_directory import open_model_directory
from training.evaluation.models import embed
from training.sameness.measure import Measured, measure
from training.sameness.pairs import LabelledPair, read_labelled_pairs, read_opposites, read_variants

PRECISION = 0.95
OPPOSITES_MERGED = 0.02
RELATED_AT = 0.5
FOLDS = 10
REGULARIZATIONS = (1.0, 3.0, 10.0)  # scikit-learn's C
WITHOUT_VECTORS = Path(__file__).parents[2] / "service/chat/without_vectors.json"


@dataclass(frozen=True)
class Examples:
    pairs: Sequence[LabelledPair]
    cosines: np.ndarray  # [n]; 0 if one has no vector

    @property
    def evidence(self) -> np.ndarray:
        rows = [
            weigh(spell(pair.first), spell(pair.second), float(cosine))[0]
            for pair, cosine in zip(self.pairs, self.cosines, strict=True)
        ]
        return np.array(rows)  # [n, evidence]

    def are(self, *relations: str) -> np.ndarray:
        return np.array([pair.relation in relations for pair in self.pairs])


def learn_sameness(model: Path) -> list[Measured]:
    """Writes the weights for a model directory; returns how well it and rules of characters judge the other half."""
    pairs, opposites, variants = read_labelled_pairs(), read_opposites(), read_variants()
    everything = [*pairs, *opposites, *variants]
    examples = Examples(everything, embed_pairs(model, everything))
    is_dev = np.array([pair.split == "dev" for pair in everything])
    is_opposite = np.arange(len(everything)) >= len(pairs)
    dev = Examples([pair for pair, chosen in zip(everything, is_dev, strict=True) if chosen], examples.cosines[is_dev])
    with_cosine = learn(dev, is_opposite[is_dev], EVIDENCE)
    without_cosine = learn(dev, is_opposite[is_dev], WITHOUT_COSINE)
    digest = open_model_directory(model).digest
    write_weights(model / FILE, with_cosine, model=digest)
    write_weights(WITHOUT_VECTORS, without_cosine)
    judges = {
        "characters and sounds, learned": Judge(without_cosine, uses_cosine=False),
        "same": Judge(with_cosine, uses_cosine=True),
    }
    return measure(pairs, opposites, variants, examples.cosines, judges)


def embed_pairs(model: Path, pairs: Sequence[LabelledPair]) -> np.ndarray:
    """Returns the cosine of each pair's vectors [n]."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    vectors = dict(zip(texts, embed(model, texts), strict=True))
    return np.array([float(vectors[pair.first] @ vectors[pair.second]) for pair in pairs])


def learn(examples: Examples, is_opposite: np.ndarray, names: Sequence[str]) -> Weights:
    """Learns from examples the weights of evidence by its names; `is_opposite` [n] are those of opposites.tsv."""
    evidence = examples.evidence[:, [EVIDENCE.index(name) for name in names]]
    is_same, is_related = examples.are("same"), examples.are("same", "related")
    found = {}
    for strength in REGULARIZATIONS:
        regression = LogisticRegression(C=strength, max_iter=5000)
        scores = cross_val_predict(regression, evidence, is_same, cv=FOLDS, method="predict_proba")[:, 1]
        threshold = choose_threshold(scores, is_same, is_opposite)
        found[strength] = int(is_same[scores >= threshold].sum()), threshold
    strength = max(found, key=found.__getitem__)
    same, related = (_fit(evidence, labels, names, strength) for labels in (is_same, is_related))
    return Weights(same, related, found[strength][1], RELATED_AT)


def choose_threshold(scores: np.ndarray, is_same: np.ndarray, is_opposite: np.ndarray) -> float:
    """Returns the lowest threshold from 0.5 to 0.99 above which enough is the same and few enough are opposites."""
    for hundredth in range(50, 99):
        merged = scores >= hundredth / 100
        counted = merged & ~is_opposite
        is_right = not counted.any() or is_same[counted].mean() >= PRECISION
        if is_right and not merged[is_opposite].sum() > OPPOSITES_MERGED * is_opposite.sum():
            return hundredth / 100
    return 0.99


def _fit(evidence: np.ndarray, labels: np.ndarray, names: Sequence[str], strength: float) -> dict[str, float]:
    found = LogisticRegression(C=strength, max_iter=5000).fit(evidence, labels)
    weights = {name: round(float(weight), 4) for name, weight in zip(names, found.coef_[0], strict=True)}
    return weights | {"bias": round(float(found.intercept_[0]), 4)}
