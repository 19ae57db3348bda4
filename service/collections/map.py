"""A map of vectors: their places on a plane, and their clusters. numpy alone.

The plane is that of the two directions in which the vectors differ most (their principal components), so it is the same
for the same vectors, and any other vector has its place in it, too: (vector − mean) · axes. `share` tells how much of
the differences it shows; the rest is lost. Clusters are of the vectors themselves, not of their places, so that two of
them may lie over each other on the plane. Left out: t-SNE and the like, in which what comes later has no place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MOST_CLUSTERS = 8  # as many colours as people tell apart
ROUNDS = 30
SUBSPACE, SUBSPACE_ROUNDS = 8, 60


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    mean: np.ndarray  # [dim] float32
    axes: np.ndarray  # [2, dim] float32, of length 1
    share: list[float]  # of the variance, along either axis
    places: np.ndarray  # [n, 2] float32
    clusters: np.ndarray  # [n] int, from 0, the largest first
    centres: list[int]  # of each cluster, which row is nearest to its middle


def draw(vectors: np.ndarray) -> Map:
    """The map of rows [n, dim], n ≥ 1."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    covariance = centred.T @ centred
    variances, axes = _principal(covariance)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # else left and right are chance
    share = variances / max(np.trace(covariance), np.finfo(np.float32).tiny)
    clusters, centres = cluster(centred)
    return Map(mean, axes, share.tolist(), centred @ axes.T, clusters, centres)


def _principal(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two largest variances, and their directions [2, dim], by subspace iteration: a hundredth of the work of all
    eigenvectors, and products so thin that BLAS does not call threads, which an encoder would have to wait for.
    """
    dim = len(covariance)
    basis = np.random.default_rng(0).normal(size=(dim, min(SUBSPACE, dim))).astype(np.float32)
    for _ in range(SUBSPACE_ROUNDS):
        basis, _ = np.linalg.qr(covariance @ basis)
    variances, turn = np.linalg.eigh(basis.T @ covariance @ basis)  # ascending
    return np.maximum(variances[:-3:-1], 0), np.ascontiguousarray((basis @ turn[:, :-3:-1]).T)


def cluster(vectors: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """k-means from a fixed seed: the cluster of each row, and the row nearest to the middle of each."""
    count = min(MOST_CLUSTERS, max(1, round(math.sqrt(len(vectors) / 2))))
    middles = _begin(vectors, count)
    nearest = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        distances = _distances(vectors, middles)  # [n, clusters]
        before, nearest = nearest, distances.argmin(axis=1)
        if np.array_equal(before, nearest):
            break
        middles = np.stack([vectors[nearest == each].mean(axis=0) for each in np.unique(nearest)])
    distances = _distances(vectors, middles)
    nearest = distances.argmin(axis=1)
    found, sizes = np.unique(nearest, return_counts=True)
    found = found[np.argsort(-sizes, kind="stable")]
    rank = np.zeros(len(middles), int)
    rank[found] = np.arange(len(found))
    return rank[nearest], [int(distances[:, each].argmin()) for each in found]


def _begin(vectors: np.ndarray, count: int) -> np.ndarray:
    """Rows far from one another (Arthur & Vassilvitskii 2007). Fewer, if fewer are distinct."""
    random = np.random.default_rng(0)
    chosen = [int(random.integers(len(vectors)))]
    while len(chosen) < count:
        distances = _distances(vectors, vectors[chosen]).min(axis=1)
        if (whole := distances.sum()) <= 1e-6:
            break
        chosen.append(int(random.choice(len(vectors), p=distances / whole)))
    return vectors[chosen]


def _distances(vectors: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Squared: [n, dim], [k, dim] → [n, k] float64."""
    squares = (vectors**2).sum(axis=1)[:, None] - 2 * (vectors @ middles.T) + (middles**2).sum(axis=1)
    return np.asarray(np.maximum(squares, 0), np.float64)
