"""Draws texts that the teacher knows, each with some texts that the teacher finds near.

Evenly drawn texts are hardly ever similar, but a model learns which questions are equivalent from near misses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.tokenizer import Tokenizer
from service.vectors import unit
from training.alignment.general_texts import Texts
from training.alignment.teacher import Taught

NEIGHBOURS = 10
PER_SEED = 3  # neighbours that a text brings
ROWS_AT_ONCE = 2_000


@dataclass(frozen=True)
class TaughtTexts:
    """The teacher's vectors of n texts, with e dimensions."""

    texts: Texts
    vectors: np.ndarray  # float32 [n, e], centred and of length 1
    neighbours: np.ndarray  # int32 [n, NEIGHBOURS], the nearest others
    chances: np.ndarray  # float64 [n], cumulated, of each text to be drawn

    @classmethod
    def of(cls, taught: Taught, tokenizer: Tokenizer, weights: np.ndarray | None = None) -> TaughtTexts:
        """Centres the teacher's vectors and finds neighbours. `weights` [n] say how often each text is drawn."""
        texts = Texts.of(taught.texts, tokenizer)
        vectors = taught.vectors[texts.numbers].astype(np.float32)
        vectors = unit(vectors - vectors.mean(0))  # the teacher's own vectors are crowded: strangers have 0.8
        chances = np.cumsum(np.ones(len(vectors)) if weights is None else weights[texts.numbers])
        return cls(texts, vectors, _nearest(vectors), chances)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draws the numbers of distinct texts, at most this many."""
        draws = rng.random(-(-count // (1 + PER_SEED))) * self.chances[-1]
        seeds = np.searchsorted(self.chances, draws, side="right")
        columns = rng.integers(self.neighbours.shape[1], size=(len(seeds), PER_SEED))
        near = np.take_along_axis(self.neighbours[seeds], columns, 1)
        drawn = np.concatenate([seeds[:, None], near], 1).ravel()[:count]
        return np.asarray(np.unique(drawn))


def _nearest(vectors: np.ndarray) -> np.ndarray:
    most = min(NEIGHBOURS, len(vectors) - 1)
    found = []
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        cosines = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        found.append(np.argpartition(-cosines, most - 1, axis=1)[:, :most].astype(np.int32))
    return np.concatenate(found)
