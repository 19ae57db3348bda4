"""Means and areas under curves with the 95 % interval of a bootstrap, from one frozen seed.

Percentile intervals of 1,000 resamples (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
Values that are not independent, such as the questions of one video or the two directions of a pair, are resampled
together as a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEED = 20190531  # never change this: intervals of different days and models must be comparable
RESAMPLES = 1000
DRAWS_AT_A_TIME = 4_000_000  # 32 MB


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float
    count: int


def bootstrap_mean(values: np.ndarray, clusters: np.ndarray | None = None) -> Mean:
    """Returns the mean of the values [n]; with `clusters` [n], values of one cluster are drawn together."""
    rng = np.random.default_rng(SEED)
    clusters = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sums, counts = np.bincount(clusters, weights=values), np.bincount(clusters)
    resampled = np.empty(RESAMPLES)
    rows = max(1, DRAWS_AT_A_TIME // len(sums))
    for first in range(0, RESAMPLES, rows):
        draws = rng.integers(0, len(sums), (min(rows, RESAMPLES - first), len(sums)))
        resampled[first : first + rows] = sums[draws].sum(1) / counts[draws].sum(1)
    return percentile_interval(float(values.mean()), resampled, len(values))


def bootstrap_auc(positive: np.ndarray, negative: np.ndarray) -> Mean:
    """Returns the area under the ROC curve: how often a positive score [p] is above a negative one [n], ties half."""
    above = (positive[:, None] > negative).astype(np.float32)
    above += 0.5 * (positive[:, None] == negative)  # [p, n]
    rng = np.random.default_rng(SEED)
    value, resampled = float(above.mean()), np.empty(RESAMPLES)
    for first in range(0, RESAMPLES, 100):
        times = [draw_multiplicities(rng, 100, len(scores)) for scores in (positive, negative)]
        resampled[first : first + 100] = ((times[0] @ above) * times[1]).sum(1) / above.size
    return percentile_interval(value, resampled, above.size)


def draw_multiplicities(rng: np.random.Generator, resamples: int, count: int) -> np.ndarray:
    """Draws resamples of `count` items: how often each item is in each, float32 [resamples, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float32)


def percentile_interval(value: float, resampled: np.ndarray, count: int) -> Mean:
    """Returns the value with the quantiles 0.025 and 0.975 of its resamples."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Mean(value, float(low), float(high), count)
