"""Measures the space of vectors as a whole: hubs, and how close strangers are.

A hub is a danmaku that is among the nearest of very many others and so answers every query (M. Radovanović, A.
Nanopoulos, M. Ivanović, Hubs in space, JMLR 11 (2010) 2487-2531). In a crowded space strangers, which are danmaku of
different videos, have a high cosine, and no threshold separates similar danmaku.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse

from training.evaluation.intervals import RESAMPLES, SEED, Mean, bootstrap_mean, percentile_interval

Matrix = Any  # np.ndarray, or scipy's csr_matrix, which has no types

NEAREST = 10
HUBS = 10


@dataclass(frozen=True)
class Strangers:
    """Cosines of danmaku of different videos."""

    mean: Mean
    standard_deviation: float
    percentile_95: float  # a twentieth of the strangers are nearer than this


def compare_rows(vectors: Matrix, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Computes the cosines of the rows of these numbers, which broadcast, of vectors of length 1."""
    first, second = np.broadcast_arrays(first, second)
    if sparse.issparse(vectors):
        products = vectors[first.ravel()].multiply(vectors[second.ravel()]).sum(1)
        return np.asarray(products).reshape(first.shape)
    found = np.empty(first.shape, np.float32)
    for row in range(len(first)):  # one question at a time: all at once would take gigabytes
        found[row] = (vectors[first[row]] * vectors[second[row]]).sum(-1)
    return found


def compare_all(vectors: Matrix) -> np.ndarray:
    """Computes the cosines of every row with every other: [n, n]."""
    products = vectors @ vectors.T
    return np.asarray(products.toarray() if sparse.issparse(products) else products, np.float32)


def measure_hubs(vectors: Matrix) -> Mean:
    """Measures how much of the rows' ten-nearest lists the ten commonest neighbours fill: 10/n at best, 1 at worst.

    Which of equally near ones are in a list is random.
    """
    rng = np.random.default_rng(SEED)
    found = compare_all(vectors)
    np.fill_diagonal(found, -np.inf)
    count = len(found)
    nearest = min(NEAREST, count - 1)
    order = np.lexsort((rng.random(found.shape, np.float32), -found), axis=1)[:, :nearest]
    lists = np.zeros((count, count), np.float32)
    np.put_along_axis(lists, order, 1, axis=1)

    def share(times: np.ndarray) -> float:
        return float(np.sort(times)[-HUBS:].sum() / (count * nearest))

    resampled = np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float32)
        resampled[resample] = share(weights @ lists)
    return percentile_interval(share(lists.sum(0)), resampled, count)


def judge_strangers(found: np.ndarray) -> Strangers:
    """Summarises the cosines of pairs of strangers [n]."""
    return Strangers(bootstrap_mean(found), float(found.std()), float(np.quantile(found, 0.95)))
