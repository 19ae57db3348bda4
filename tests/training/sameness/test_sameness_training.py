"""The labelled pairs, and the weights that are learned from them for the bundled model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from service.chat.sameness import FILE, Judge, read_weights
from service.model_directory import open_model_directory
from training.sameness.learn import choose_related_threshold, choose_threshold, embed_pairs, make_strangers
from training.sameness.measure import format_measured, measure, measure_related
from training.sameness.pairs import read_labelled_pairs, read_opposites, read_variants

MODEL = Path("models/danmaku-bert-mini")
EASY = ("spelling", "few characters", "random")


def test_half_of_the_pairs_are_hard_and_no_danmaku_is_in_both_splits() -> None:
    pairs = read_labelled_pairs()
    sides = {
        split: {text for pair in pairs if pair.split == split for text in (pair.first, pair.second)}
        for split in ("dev", "test")
    }
    splits = Counter(pair.split for pair in pairs)

    assert len(pairs) >= 800
    assert sum(pair.kind not in EASY for pair in pairs) >= len(pairs) / 2
    assert not sides["dev"] & sides["test"]
    assert min(splits.values()) > len(pairs) / 3


def test_a_malformed_pair_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("草\t草草\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: 2 fields; expected 5"):
        read_labelled_pairs(path)
    path.write_text("草\t草草\tequal\tspelling\tdev\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a relation of same, related, unrelated"):
        read_labelled_pairs(path)


def test_the_threshold_is_the_lowest_that_keeps_what_is_promised() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.95])
    is_opposite = np.array([False, False, False, False, True])

    assert choose_threshold(scores, np.array([1, 1, 0, 1, 0], bool), is_opposite) == 0.96
    is_opposite[:] = False
    assert choose_threshold(scores, np.array([1, 1, 0, 1, 1], bool), is_opposite) == 0.71
    assert choose_threshold(scores, np.ones(5, bool), is_opposite) == 0.5


def test_few_strangers_reach_the_threshold_of_what_is_related() -> None:
    assert choose_related_threshold(np.concatenate([np.full(99, 0.2), [0.9]])) == 0.21
    assert choose_related_threshold(np.ones(100)) == 0.99


def test_the_bundled_weights_were_learned_with_the_bundled_model() -> None:
    """If this fails, run danmaku-train sameness --model models/danmaku-bert-mini."""
    assert json.loads((MODEL / FILE).read_text())["model"] == open_model_directory(MODEL).digest


def test_the_judge_keeps_its_promise_on_held_out_pairs() -> None:
    pairs, opposites, variants = read_labelled_pairs(), read_opposites(), read_variants()
    cosines = embed_pairs(MODEL, [*pairs, *opposites, *variants])
    judge = Judge(read_weights(MODEL / FILE), uses_cosine=True)
    measured = measure(pairs, opposites, variants, cosines, {"same": judge})
    *rules, same = measured

    assert same.precision and same.precision.value >= 0.95
    assert same.opposites.value <= 0.03
    assert same.auc.value >= max(rule.auc.value for rule in rules)
    assert same.recall.value >= max(
        rule.recall.value for rule in rules if rule.precision and rule.precision.value >= 0.95
    )
    assert format_measured(measured).count("\n") == len(measured) + 2


def test_strangers_are_not_related_and_most_of_what_is_labelled_so_is() -> None:
    tested = [pair for pair in read_labelled_pairs() if pair.split == "test"]
    related, strangers = [pair for pair in tested if pair.relation == "related"], make_strangers(tested)
    judge = Judge(read_weights(MODEL / FILE), uses_cosine=True)
    found, wrong = (measure_related(pairs, embed_pairs(MODEL, pairs), judge) for pairs in (related, strangers))

    assert len(strangers) > 2000
    assert wrong.value < 0.03
    assert found.value > 0.7
