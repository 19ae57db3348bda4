"""Lists of pairs, the definition of a variant, and how opposites are separated from variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.tokenizer import Tokenizer
from training.evaluation.pairs import (
    OPPOSITES,
    SYNONYMS,
    SYNONYMS_2020,
    VARIANTS,
    are_variants,
    fold,
    judge_opposites,
    read_pairs,
)

LISTS = [SYNONYMS, VARIANTS, OPPOSITES, SYNONYMS_2020]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(Path(__file__).parents[3] / "models/danmaku-bert-mini/vocab.txt")


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_bundled_lists_are_valid(path: Path, tokenizer: Tokenizer) -> None:
    """No pair occurs twice, in either order, and none consists of two spellings of one danmaku unless it
    is a variant.
    """
    pairs = read_pairs(path, tokenizer)
    raw = [line.split("\t")[:2] for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all(one != other for one, other in raw)
    assert len({frozenset(pair) for pair in raw}) == len(pairs)


def test_half_of_the_synonyms_share_no_character(tokenizer: Tokenizer) -> None:
    pairs = read_pairs(SYNONYMS, tokenizer)
    assert len(pairs) >= 150 and sum(not pair.shares_a_character for pair in pairs) * 2 >= len(pairs)


def test_no_danmaku_of_the_opposites_is_in_both_splits(tokenizer: Tokenizer) -> None:
    """A threshold chosen on one half must not know the other."""
    pairs = read_pairs(OPPOSITES, tokenizer)
    sides = {
        split: {text for pair in pairs if pair.split == split for text in (pair.first, pair.second)}
        for split in ("dev", "test")
    }
    assert not sides["dev"] & sides["test"]
    assert min(sum(pair.split == split for pair in pairs) for split in sides) >= 120


def test_no_opposites_are_synonyms_or_variants(tokenizer: Tokenizer) -> None:
    opposite, *others = (
        {frozenset((pair.first, pair.second)) for pair in read_pairs(path, tokenizer)}
        for path in (OPPOSITES, SYNONYMS, VARIANTS, SYNONYMS_2020)
    )
    assert not opposite & set().union(*others)


@pytest.mark.parametrize("line", ["草\t哈", "草", "草\t\tname", "草\t哈\tname\ttrain", "草\t哈\tname\tdev\tmore"])
def test_a_line_that_is_not_a_pair_is_refused(line: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "pairs.tsv").write_text(f"# none\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"pairs\.tsv, line 2: .*; expected one, other and kind"):
        read_pairs(tmp_path / "pairs.tsv", tokenizer)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("可爱", "可爱啊", True),
        ("可 爱", "好可爱啊！！！", True),
        ("哈哈哈", "哈", True),
        ("６６６", "6666", True),
        ("AWSL", "awsl", True),
        ("草", "大草原", False),
        ("可爱", "kawaii", False),
        ("喜欢", "不知道喜欢不喜欢", False),
    ],
)
def test_variants_differ_in_marks_width_case_repeats_or_a_little_around(one: str, other: str, expected: bool) -> None:
    assert are_variants(fold(one), fold(other)) is expected
    assert are_variants(fold(other), fold(one)) is expected


def test_opposites_below_all_variants_are_told_apart() -> None:
    found = judge_opposites(
        np.array([0.1, 0.3]), ["antonym", "negation"], np.linspace(0.5, 1, 10), np.array([0.2, 0.9])
    )
    assert found.against_variants.value == 1.0 and found.false_merges.value == 0.0
    assert found.against_synonyms.value == 0.75
    assert found.against_variants_by_kind == {"antonym": 1.0, "negation": 1.0}
    assert found.mean_cosine == pytest.approx(0.2)


def test_the_threshold_keeps_eight_of_ten_variants() -> None:
    """Opposites at or above it are merged."""
    variants = np.array([0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9, 1.0])
    found = judge_opposites(np.array([0.4, 0.5, 0.95, 0.1]), ["antonym"] * 4, variants, variants)
    assert (variants >= found.threshold).sum() >= 8
    assert found.false_merges.value == (np.array([0.4, 0.5, 0.95, 0.1]) >= found.threshold).mean()
    assert found.false_merges.low <= found.false_merges.value <= found.false_merges.high
