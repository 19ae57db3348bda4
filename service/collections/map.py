"""Computes a map of vectors: their positions on a plane, and their clusters. Uses only numpy.

The axes of the plane are the two directions in which the vectors differ most, their principal components. So the same
vectors give the same map, and any other vector has a place on it, too: (vector − mean) · axes. `share` is the part of
the variance that the plane shows; the rest is lost. Clusters are computed from the vectors, not from the places, so two
clusters may overlap on the plane. Left out: t-SNE and similar methods, which cannot place later vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MOST_CLUSTERS = 8  # as many colours as people can tell apart
ROUNDS = 30
SUBSPACE, SUBSPACE_ROUNDS = 8, 60


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """The places and clusters of vectors [n, dim]."""

    mean: np.ndarray  # [dim] float32
    axes: np.ndarray  # [2, dim] float32, of length 1
    share: list[float]  # of the variance, along each axis
    places: np.ndarray  # [n, 2] float32
    clusters: np.ndarray  # [n] int, from 0, the largest first
    centres: list[int]  # for each cluster, the row nearest to its middle


def draw(vectors: np.ndarray) -> Map:
    """Computes the map of vectors [n, dim], n ≥ 1."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    covariance = centred.T @ centred
    variances, axes = _find_axes(covariance)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # otherwise the sign is arbitrary
    share = variances / max(np.trace(covariance), np.finfo(np.float32).tiny)
    clusters, centres = cluster(centred)
    return Map(mean, axes, share.tolist(), centred @ axes.T, clusters, centres)


def _find_axes(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two largest variances and their directions [2, dim], by subspace iteration.

    It takes a hundredth of the work of all eigenvectors, and its products are too thin for BLAS to use threads, which
    would slow an encoder down.
    """
    dim = len(covariance)
    basis = np.random.default_rng(0).normal(size=(dim, min(SUBSPACE, dim))).astype(np.float32)
    for _ in range(SUBSPACE_ROUNDS):
        basis, _ = np.linalg.qr(covariance @ basis)
    variances, turn = np.linalg.eigh(basis.T @ covariance @ basis)  # ascending
    return np.maximum(variances[:-3:-1], 0), np.ascontiguousarray((basis @ turn[:, :-3:-1]).T)


def cluster(vectors: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Runs k-means from a fixed seed; returns the cluster of each row, and the row nearest to each cluster's middle."""
    count = min(MOST_CLUSTERS, max(1, round(math.sqrt(len(vectors) / 2))))
    middles = _choose_middles(vectors, count)
    nearest = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        distances = _measure_distances(vectors, middles)  # [n, clusters]
        before, nearest = nearest, distances.argmin(axis=1)
        if np.array_equal(before, nearest):
            break
        middles = np.stack([vectors[nearest == each].mean(axis=0) for each in np.unique(nearest)])
    distances = _measure_distances(vectors, middles)
    nearest = distances.argmin(axis=1)
    used, sizes = np.unique(nearest, return_counts=True)
    used = used[np.argsort(-sizes, kind="stable")]
    rank = np.zeros(len(middles), int)
    rank[used] = np.arange(len(used))
    return rank[nearest], [int(distances[:, each].argmin()) for each in used]


def _choose_middles(vectors: np.ndarray, count: int) -> np.ndarray:
    """Rows far from one another (Arthur & Vassilvitskii 2007). Fewer, if fewer are distinct."""
    random = np.random.default_rng(0)
    chosen = [int(random.integers(len(vectors)))]
    while len(chosen) < count:
        distances = _measure_distances(vectors, vectors[chosen]).min(axis=1)
        if (whole := distances.sum()) <= 1e-6:
            break
        chosen.append(int(random.choice(len(vectors), p=distances / whole)))
    return vectors[chosen]


def _measure_distances(vectors: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Returns squared distances: [n, dim], [k, dim] → [n, k] float64."""
    squares = (vectors**2).sum(axis=1)[:, None] - 2 * (vectors @ middles.T) + (middles**2).sum(axis=1)
    return np.asarray(np.maximum(squares, 0), np.float64)
