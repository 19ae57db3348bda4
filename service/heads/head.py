"""A head: a linear classifier over the vector of a text and its n-grams.

It reads the vectors that the gateway already serves and caches, scaled to length 1, so it needs no model call. The
scores of a list of texts take one matrix product and one table look-up. The scores from a text's n-grams depend only on
the text, so a head remembers them: a chat repeats itself, and hashing takes longer than all the rest. Training has
divided the weights by a temperature, so the probabilities are calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256

import numpy as np
import orjson

from service.errors import HeadError
from service.heads.ngrams import hash_ngrams
from service.vectors import unit

MAX_BITS = 20  # a table of 2^20 rows takes 4 MB per label
REMEMBERED = 10_000  # texts; at least this many of the latest, at most twice as many: about 3 MB
LONGEST_REMEMBERED = 100  # characters


@dataclass(frozen=True)
class Encoder:
    """The encoder whose vectors a head reads."""

    model: str
    fingerprint: str
    pooling_layer: tuple[int, ...]
    pooling_strategy: str


@dataclass(frozen=True)
class Weights:
    """The score of a label is unit vector · `vector` + `bias` + the score of the text's n-grams.

    The n-grams' score follows TF-IDF: the sum of their rows of `ngrams`, divided by the square root of the sum of their
    last column. Raises ValueError for arrays that do not belong together.
    """

    vector: np.ndarray  # [dim, labels] float32
    bias: np.ndarray  # [labels] float32
    buckets: np.ndarray  # [k] uint32: the buckets that training has seen
    ngrams: np.ndarray  # [k, labels + 1] float16: weight · idf for each label, and idf²
    unseen: float  # idf² of all other buckets
    bits: int  # of a bucket

    def __post_init__(self) -> None:
        labels, size = len(self.bias), len(self.buckets)
        if self.vector.shape[1:] != (labels,) or self.ngrams.shape != (size, labels + 1):
            raise ValueError(
                f"the weights have shapes {self.vector.shape}, {self.bias.shape} and {self.ngrams.shape}; expected "
                f"as many labels in each, and {size} rows of n-grams"
            )
        if not 1 <= self.bits <= MAX_BITS or (size and int(self.buckets.max()) >> self.bits):
            raise ValueError(f"invalid bits: {self.bits}; expected 1 to {MAX_BITS}, and buckets below 2^bits")
        if not all(np.isfinite(values).all() for values in (self.vector, self.bias, self.ngrams, self.unseen)):
            raise ValueError("a weight is not a finite number")


class Head:
    """A head that is ready to classify; heads of equal versions give equal scores."""

    def __init__(self, labels: Sequence[str], encoder: Encoder, weights: Weights) -> None:
        self.labels, self.encoder, self.weights = tuple(labels), encoder, weights
        digest = sha256(orjson.dumps([self.labels, asdict(encoder), weights.unseen, weights.bits]))
        for values in (weights.vector, weights.bias, weights.buckets, weights.ngrams):
            digest.update(np.ascontiguousarray(values).data)
        self.version = digest.hexdigest()[:16]
        self._table = np.zeros((1 << weights.bits, len(labels) + 1), np.float32)
        self._table[:, -1] = weights.unseen
        self._table[weights.buckets] = weights.ngrams
        self._scored: dict[str, bytes] = {}  # the n-grams' scores of texts, float32 [labels]
        self._scored_before: dict[str, bytes] = {}

    def check(self, fingerprint: str, model: str, what: str) -> None:
        """Raises HeadError, which names `what` this is, if it belongs to another encoder than the model's."""
        encoder = self.encoder
        if encoder.fingerprint != fingerprint:
            raise HeadError(
                f"{what} reads vectors of {encoder.model!r} with the fingerprint {encoder.fingerprint}, but these are "
                f"of {model!r} with {fingerprint}; retrain it on this model, or serve the other model with "
                f"pooling layer {' '.join(map(str, encoder.pooling_layer))}"
            )

    def score(self, texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """Returns the logarithm of each label's odds, up to a constant of the text: [n], [n, dim] → [n, labels]."""
        if not texts:
            return np.zeros((0, len(self.labels)), np.float32)
        scores = unit(vectors) @ self.weights.vector + self.weights.bias
        return np.asarray(scores + self._recall_ngrams(texts), np.float32)

    def _recall_ngrams(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the result of `_score_ngrams`, and computes only what is not remembered."""
        new, old = self._scored, self._scored_before  # several threads may call this
        rows = [new.get(text) or old.get(text) or b"" for text in texts]
        if missing := [place for place, row in enumerate(rows) if not row]:
            for place, row in zip(missing, self._score_ngrams([texts[place] for place in missing]), strict=True):
                rows[place] = row.tobytes()
        new.update((text, row) for text, row in zip(texts, rows, strict=True) if len(text) <= LONGEST_REMEMBERED)
        if len(new) >= REMEMBERED:
            self._scored, self._scored_before = {}, new
        return np.frombuffer(b"".join(rows), np.float32).reshape(len(texts), len(self.labels))

    def _score_ngrams(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the n-grams' part of the scores of texts: float32 [n, labels]."""
        buckets, weights, starts = hash_ngrams(texts, self.weights.bits)
        rows = self._table[buckets]  # [m, labels + 1]
        rows *= weights[:, None]
        rows[:, -1] *= weights
        sums = np.add.reduceat(rows, starts)  # [n, labels + 1]
        return np.asarray(sums[:, :-1] / np.sqrt(sums[:, -1:]), np.float32)


def to_probabilities(scores: np.ndarray) -> np.ndarray:
    """Returns the softmax of rows [n, labels]."""
    odds = np.exp(scores - scores.max(1, keepdims=True, initial=-np.inf))
    return np.asarray(odds / odds.sum(1, keepdims=True))
