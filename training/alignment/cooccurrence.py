"""Models which danmaku are written at the same moments, as vectors that the encoder learns from.

A danmaku is described by what others wrote within seconds of it: their tokens, pairs of tokens, and frequent danmaku as
a whole. These contexts are counted over all its occurrences, weighted by positive pointwise mutual information and
reduced to `dim` dimensions by a singular value decomposition. The vectors of frequent danmaku then put 晚安 beside
下次见, although they share no character. (O. Levy, Y. Goldberg, I. Dagan, Improving distributional similarity, TACL 3
(2015) 211-225: contexts smoothed by 0.75, singular values to the power of 0.5.) It has no vector for an unseen danmaku,
and most are new, so an encoder is needed. The same reduction turns one moment into a vector, so rare danmaku have one,
too.

Dimensions come in the order of their singular values, so the first 64 of 256 are the best 64.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from sklearn.utils.extmath import randomized_svd

from service.vectors import unit
from training.alignment.timed_lines import TimedLines
from training.files import temporary_name

FILE = "cooccurrence.npz"  # in the workdir of a run
FITTED = ("log_share", "reduction", "rows", "vectors")
SMOOTHING = 0.75
CENTRE_LINES = 4_000  # moments whose mean is taken as the mean of all


@dataclass(frozen=True)
class CooccurrenceSettings:
    """Settings of the counts."""

    window_s: float = 5.0
    max_neighbours: int = 20  # on either side
    min_count: int = 3  # lines that a danmaku needs to get a vector of all its occurrences
    min_context_count: int = 10  # … and to be a context as a whole
    min_pair_count: int = 50  # distinct danmaku that a pair of tokens needs to be a context
    dim: int = 256


@dataclass(frozen=True)
class Cooccurrence:
    """The fitted model. m texts, f contexts in three families (tokens, pairs, whole danmaku), d dimensions."""

    settings: CooccurrenceSettings
    lines: TimedLines
    contexts: sparse.csr_matrix  # [m, f], 1 where a text has a context
    families: np.ndarray  # [4], where each family begins, and the end
    log_share: np.ndarray  # [f], log of a context's smoothed share within its family
    reduction: np.ndarray  # [f, d]
    rows: np.ndarray  # [r], the texts that are frequent
    vectors: np.ndarray  # [r, d], their vectors, of length 1

    def shortened(self, dim: int) -> Cooccurrence:
        """Returns the model with the first `dim` dimensions of its vectors, scaled to length 1 again."""
        settings = replace(self.settings, dim=dim)
        return replace(self, settings=settings, reduction=self.reduction[:, :dim], vectors=unit(self.vectors[:, :dim]))

    @cached_property
    def row_of(self) -> np.ndarray:
        """Returns the row of each text; -1 for a text that is not frequent: [m]."""
        row_of = np.full(len(self.lines.texts), -1, np.int64)
        row_of[self.rows] = np.arange(len(self.rows))
        return row_of

    @cached_property
    def stretches(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the moment [first, last) of each line: [n] each."""
        return self.lines.neighbours(self.settings.window_s, self.settings.max_neighbours)

    @cached_property
    def centre(self) -> np.ndarray:
        """Returns the component that all moments share: [d]."""
        rng = np.random.default_rng(0)
        some = rng.choice(len(self.lines.text_of), min(CENTRE_LINES, len(self.lines.text_of)), replace=False)
        return np.asarray(self._moments(np.sort(some)).mean(0))

    def moments(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the contexts of the lines of these numbers: [b, d], of length 1, or 0 for an empty context."""
        found = self._moments(numbers)
        return unit(np.where(found.any(1, keepdims=True), found - self.centre, 0.0))

    def targets(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the vectors that the encoder learns for the lines: [b, d] float32, of length 1.

        This is the moment for a rare danmaku, and the vector of all occurrences for a frequent one. In between, n
        occurrences weigh n against `min_count`.
        """
        texts = self.lines.text_of[numbers]
        rows = self.row_of[texts]
        share = np.where(rows < 0, 0.0, self.lines.counts[texts] / (self.lines.counts[texts] + self.settings.min_count))
        mixed = share[:, None] * self.vectors[rows] + (1 - share[:, None]) * self.moments(numbers)
        return unit(mixed)

    def _moments(self, numbers: np.ndarray) -> np.ndarray:
        first, last = (stretch[numbers] for stretch in self.stretches)
        sizes = last - first
        owners = np.repeat(np.arange(len(numbers)), sizes)
        others = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(first, sizes)
        kinds, text_of = self.lines.kinds, self.lines.text_of
        apart = kinds[text_of[others]] != kinds[text_of[numbers]][owners]  # a copy says nothing about the meaning
        owners, others = owners[apart], others[apart]
        heard = sparse.csr_matrix(
            (np.ones(len(owners), np.float32), (owners, np.arange(len(owners)))), (len(numbers), len(owners))
        )
        counts = heard @ self.contexts[text_of[others]]
        # One moment is too small a sample for PPMI: each context present is weighted by its rarity.
        counts.data = np.log1p(counts.data) * np.maximum(-self.log_share[counts.indices], 0.0)
        return np.asarray(_by_family(counts, self.families) @ self.reduction)


def fit(lines: TimedLines, settings: CooccurrenceSettings, *, seed: int = 1) -> Cooccurrence:
    """Counts, weights and reduces. Raises ValueError if there are too few danmaku for that many dimensions."""
    contexts, families = _contexts(lines, settings)
    rows = np.flatnonzero(lines.counts >= settings.min_count)
    if min(len(rows), contexts.shape[1]) <= settings.dim:
        raise ValueError(
            f"{len(rows)} danmaku occur in at least {settings.min_count} lines, among {contexts.shape[1]} contexts: "
            f"too few for {settings.dim} dimensions; use more recordings or a smaller min_count"
        )
    counts = _counts(lines, settings, rows) @ contexts  # [r, f]
    totals = np.asarray(counts.sum(0)).ravel() ** SMOOTHING
    log_share = np.log(np.maximum(totals / _family_sums(totals, families), 1e-12)).astype(np.float32)
    weighted = _ppmi(counts, log_share, families)
    _, values, directions = randomized_svd(weighted, settings.dim, n_iter=2, random_state=seed, flip_sign=True)
    reduction = (directions.T / np.sqrt(values)).astype(np.float32)
    vectors = weighted @ reduction
    vectors = unit(vectors - vectors.mean(0))
    return Cooccurrence(settings, lines, contexts, families, log_share, reduction, rows, vectors)


def save(path: Path, model: Cooccurrence) -> None:
    settings = np.array(json.dumps(asdict(model.settings)))
    with temporary_name(path) as temporary, temporary.open("wb") as file:
        np.savez(file, settings=settings, **{name: getattr(model, name) for name in FITTED})


def load(path: Path, lines: TimedLines) -> Cooccurrence:
    """Loads the model that was fitted to these lines; recounts what can be counted quickly."""
    with np.load(path) as stored:
        settings = CooccurrenceSettings(**json.loads(str(stored["settings"])))
        fitted = {name: stored[name] for name in FITTED}
    return Cooccurrence(settings, lines, *_contexts(lines, settings), **fitted)


def _contexts(lines: TimedLines, settings: CooccurrenceSettings) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Returns which text has which context, [m, f], and where the families begin."""
    m = len(lines.texts)
    owners = np.repeat(np.arange(m), np.diff(lines.starts))
    tokens = lines.tokens.astype(np.int64)
    size = int(tokens.max()) + 1
    inside = owners[1:] == owners[:-1]
    pairs, pair_owners = (tokens[:-1] * size + tokens[1:])[inside], owners[1:][inside]
    of_pair, places = np.unique(pairs, return_inverse=True)
    seen = np.bincount(np.unique(places * m + pair_owners) // m)  # in how many texts
    kept = np.flatnonzero(seen >= settings.min_pair_count)
    column = np.full(len(of_pair), -1)
    column[kept] = np.arange(len(kept))
    wanted = column[places] >= 0
    frequent = np.flatnonzero(lines.counts >= settings.min_context_count)
    blocks = [
        _ones(owners, tokens, (m, size)),
        _ones(pair_owners[wanted], column[places][wanted], (m, len(kept))),
        _ones(frequent, np.arange(len(frequent)), (m, len(frequent))),
    ]
    families = np.concatenate([[0], np.cumsum([block.shape[1] for block in blocks])])
    return sparse.hstack(blocks, format="csr"), families


def _counts(lines: TimedLines, settings: CooccurrenceSettings, rows: np.ndarray) -> sparse.csr_matrix:
    """Returns the square root of how often each frequent text was near each text: [r, m]."""
    m = len(lines.texts)
    row_of = np.full(m, -1, np.int64)
    row_of[rows] = np.arange(len(rows))
    _, last = lines.neighbours(settings.window_s, settings.max_neighbours)
    numbers = np.arange(len(lines.text_of))
    total = sparse.csr_matrix((len(rows), m), dtype=np.float32)
    kinds = lines.kinds[lines.text_of]
    for distance in range(1, settings.max_neighbours + 1):
        earlier = numbers[numbers + distance < last]
        later = earlier + distance
        apart = kinds[earlier] != kinds[later]
        here, there = lines.text_of[earlier[apart]], lines.text_of[later[apart]]
        for text, other in ((here, there), (there, here)):
            frequent = row_of[text] >= 0
            total += _sums(row_of[text[frequent]], other[frequent], total.shape)
    total.data = np.sqrt(total.data)  # many copies of one danmaku are not independent evidence
    return total


def _ppmi(counts: sparse.csr_matrix, log_share: np.ndarray, families: np.ndarray) -> sparse.csr_matrix:
    """Computes positive pointwise mutual information; each family of a row has length 1."""
    values = counts.tocsr().copy()
    owners = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    family = np.searchsorted(families, values.indices, side="right") - 1
    place = owners * 3 + family
    sums = np.bincount(place, weights=values.data, minlength=3 * values.shape[0])
    values.data = np.maximum(np.log(values.data / sums[place]) - log_share[values.indices], 0.0).astype(np.float32)
    return _by_family(values, families)


def _by_family(values: sparse.csr_matrix, families: np.ndarray) -> sparse.csr_matrix:
    """Scales each family of contexts in a row to length 1, so that none dominates."""
    owners = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    place = owners * 3 + np.searchsorted(families, values.indices, side="right") - 1
    squares = np.bincount(place, weights=values.data.astype(np.float64) ** 2, minlength=3 * values.shape[0])
    scale = 1 / np.sqrt(np.maximum(squares, 1e-12))
    return sparse.csr_matrix(
        ((values.data * scale[place]).astype(np.float32), values.indices, values.indptr), values.shape
    )


def _family_sums(totals: np.ndarray, families: np.ndarray) -> np.ndarray:
    sums = np.array([totals[first:last].sum() for first, last in zip(families[:-1], families[1:], strict=True)])
    return np.repeat(np.maximum(sums, 1e-12), np.diff(families))


def _ones(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    matrix = _sums(rows, columns, shape)
    matrix.data[:] = 1.0
    return matrix


def _sums(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape)  # adds up duplicates
