"""Learns the weights of the evidence for one model, chooses its thresholds, and writes both beside the model.

`same` is learned from the `dev` halves of sameness.tsv and opposites.tsv. Its threshold is the lowest at which, by
cross-validation, PRECISION of the pairs called same are correct and at most OPPOSITES_MERGED of the opposites are
called same. The regularisation is the one that finds most pairs at its threshold. `related` is also learned from
strangers and from synonyms.tsv: in a chat nearly all pairs are strangers, but the labelled pairs, which were chosen to
be hard, contain few strangers, and hardly any related pairs without a common character. Some of the strangers share one
character, like 阿夸 and 阿律. The threshold is the lowest at which at most STRANGERS_RELATED of them are called
related.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from service.chat.sameness import EVIDENCE, FILE, WITHOUT_COSINE, Judge, Weights, weigh, write_weights
from service.chat.spelling import spell
from service.model_directory import open_model_directory
from training.evaluation.intervals import Mean
from training.evaluation.models import embed
from training.sameness.measure import Measured, measure, measure_related
from training.sameness.pairs import (
    RELATIONS,
    LabelledPair,
    read_labelled_pairs,
    read_opposites,
    read_synonyms,
    read_variants,
)

PRECISION = 0.95
OPPOSITES_MERGED = 0.02
STRANGERS = 10  # pairs of danmaku from different rows, for each labelled pair
SHARING = 3  # other danmaku for each danmaku that share one character with it
STRANGERS_RELATED = 0.015  # share of them that may be called related
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


def learn_sameness(model: Path) -> tuple[list[Measured], dict[str, Mean]]:
    """Writes the weights for a model directory; returns how well they and character rules judge the other half.

    Also returns the shares of same, related, unrelated and stranger pairs that are called related or same.
    """
    pairs, opposites, variants = read_labelled_pairs(), read_opposites(), read_variants()
    everything = [*pairs, *opposites, *variants]
    examples = Examples(everything, embed_pairs(model, everything))
    is_dev = np.array([pair.split == "dev" for pair in everything])
    is_opposite = np.arange(len(everything)) >= len(pairs)
    dev = Examples([pair for pair, chosen in zip(everything, is_dev, strict=True) if chosen], examples.cosines[is_dev])
    dev_pairs = [pair for pair in pairs if pair.split == "dev"]
    apart = make_strangers(dev_pairs) + make_sharing(dev_pairs)
    strangers = Examples(apart, embed_pairs(model, apart))
    words = read_synonyms()
    synonyms = Examples(words, embed_pairs(model, words))
    with_cosine = learn(dev, is_opposite[is_dev], strangers, synonyms, EVIDENCE)
    without_cosine = learn(dev, is_opposite[is_dev], strangers, synonyms, WITHOUT_COSINE)
    digest = open_model_directory(model).digest
    write_weights(model / FILE, with_cosine, model=digest)
    write_weights(WITHOUT_VECTORS, without_cosine)
    judges = {
        "characters and sounds, learned": Judge(without_cosine, uses_cosine=False),
        "same": Judge(with_cosine, uses_cosine=True),
    }
    measured = measure(pairs, opposites, variants, examples.cosines, judges)
    tested = [pair for pair in pairs if pair.split == "test"]
    groups = {name: [pair for pair in tested if pair.relation == name] for name in RELATIONS}
    groups |= {
        "opposites": [pair for pair in opposites if pair.split == "test"],
        "strangers": make_strangers(tested),
        "strangers that share a character": make_sharing(tested),
    }
    return measured, {
        name: measure_related(group, embed_pairs(model, group), judges["same"]) for name, group in groups.items()
    }


def embed_pairs(model: Path, pairs: Sequence[LabelledPair]) -> np.ndarray:
    """Returns the cosine of each pair's vectors [n]."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    vectors = dict(zip(texts, embed(model, texts), strict=True))
    return np.array([float(vectors[pair.first] @ vectors[pair.second]) for pair in pairs])


def make_strangers(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Returns STRANGERS times as many pairs of danmaku that are usually unrelated."""
    return [
        LabelledPair(pair.first, pairs[(row + step * step) % len(pairs)].second, "unrelated", "random", pair.split)
        for step in range(1, STRANGERS + 1)
        for row, pair in enumerate(pairs)
    ]


def make_sharing(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Returns for each danmaku up to SHARING danmaku of other rows that share one of several characters with it."""
    texts = [
        (row, text, set(spell(text).folded)) for row, pair in enumerate(pairs) for text in (pair.first, pair.second)
    ]
    texts = [each for each in texts if len(each[2]) > 1]
    rng = random.Random(0)
    found = []
    for row, text, characters in texts:
        others = [other for at, other, theirs in texts if at != row and len(characters & theirs) == 1]
        for other in rng.sample(others, min(SHARING, len(others))):
            found.append(LabelledPair(text, other, "unrelated", "one character", pairs[row].split))
    return found


def learn(
    examples: Examples, is_opposite: np.ndarray, strangers: Examples, synonyms: Examples, names: Sequence[str]
) -> Weights:
    """Learns the weights of evidence by name from examples; `is_opposite` [n] marks pairs of opposites.tsv."""
    columns = [EVIDENCE.index(name) for name in names]
    evidence, apart, alike = (each.evidence[:, columns] for each in (examples, strangers, synonyms))
    is_same, is_related = examples.are("same"), examples.are("same", "related")
    found = {}
    for strength in REGULARIZATIONS:
        regression = LogisticRegression(C=strength, max_iter=5000)
        scores = cross_val_predict(regression, evidence, is_same, cv=FOLDS, method="predict_proba")[:, 1]
        threshold = choose_threshold(scores, is_same, is_opposite)
        found[strength] = int(is_same[scores >= threshold].sum()), threshold
    strength = max(found, key=found.__getitem__)
    same = _fit(evidence, is_same, names, strength)
    is_related = np.concatenate([is_related, np.zeros(len(apart), bool), np.ones(len(alike), bool)])
    related = _fit(np.concatenate([evidence, apart, alike]), is_related, names, strength)
    scores = expit(related["bias"] + apart @ [related[name] for name in names])
    return Weights(same, related, found[strength][1], choose_related_threshold(scores))


def choose_threshold(scores: np.ndarray, is_same: np.ndarray, is_opposite: np.ndarray) -> float:
    """Returns the lowest threshold from 0.5 to 0.99 with enough precision and few enough opposites above it."""
    for hundredth in range(50, 99):
        merged = scores >= hundredth / 100
        counted = merged & ~is_opposite
        is_right = not counted.any() or is_same[counted].mean() >= PRECISION
        if is_right and not merged[is_opposite].sum() > OPPOSITES_MERGED * is_opposite.sum():
            return hundredth / 100
    return 0.99


def choose_related_threshold(strangers: np.ndarray) -> float:
    """Returns the lowest threshold from 0.01 to 0.99 that few enough strangers' scores [n] reach."""
    found = (
        hundredth / 100 for hundredth in range(1, 99) if (strangers >= hundredth / 100).mean() <= STRANGERS_RELATED
    )
    return next(found, 0.99)


def _fit(evidence: np.ndarray, labels: np.ndarray, names: Sequence[str], strength: float) -> dict[str, float]:
    found = LogisticRegression(C=strength, max_iter=5000).fit(evidence, labels)
    weights = {name: round(float(weight), 4) for name, weight in zip(names, found.coef_[0], strict=True)}
    return weights | {"bias": round(float(found.intercept_[0]), 4)}
