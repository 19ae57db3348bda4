"""Intervals contain the value and are wider for less data."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.intervals import bootstrap_auc, bootstrap_mean


def test_a_mean_lies_in_its_interval_which_is_wider_for_fewer_values() -> None:
    values = np.random.default_rng(1).random(400)
    many, few = bootstrap_mean(values), bootstrap_mean(values[:40])
    assert many.value == pytest.approx(values.mean()) and many.count == 400
    assert many.low < many.value < many.high
    assert few.high - few.low > 2 * (many.high - many.low)


def test_copies_do_not_narrow_an_interval() -> None:
    """Ten copies of every value tell no more than the values themselves."""
    values = np.random.default_rng(1).random(40)
    copies, clusters = np.repeat(values, 10), np.repeat(np.arange(40), 10)
    assert bootstrap_mean(copies, clusters).low == pytest.approx(bootstrap_mean(values).low)
    assert bootstrap_mean(copies).low > bootstrap_mean(copies, clusters).low


def test_an_area_is_the_share_of_pairs_in_the_right_order_and_ties_are_half() -> None:
    found = bootstrap_auc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    assert found.value == (1 + 1 + 0.5 + 1) / 4
    assert found.low <= found.value <= found.high
    assert bootstrap_auc(np.array([1.0, 2.0]), np.array([0.0])).low == 1.0
    assert bootstrap_auc(np.zeros(5), np.zeros(7)).value == 0.5


def test_an_area_is_the_same_on_every_run() -> None:
    rng = np.random.default_rng(3)
    positive, negative = rng.normal(0.5, 1, 60), rng.normal(0, 1, 80)
    assert bootstrap_auc(positive, negative) == bootstrap_auc(positive, negative)
    assert bootstrap_auc(positive, negative).low > 0.5
