"""n-grams of a list of texts are those of each text alone, counted once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.heads.ngrams import hash_ngrams

BITS = 18


def spell(text: str) -> list[tuple[str, int]]:
    """What is hashed, the slow way: n-grams of the text with a line break before and after it, and their counts."""
    framed = f"\n{text}\n"
    found = [framed[at : at + n] for n in (1, 2, 3) for at in range(len(framed) - n + 1)]
    counts: dict[str, int] = {}
    for ngram in found:
        if ngram != "\n":
            counts[ngram] = counts.get(ngram, 0) + 1
    return sorted(counts.items())


@pytest.mark.parametrize("text", ["草", "哈哈哈哈", "awsl", "", "a b"])
def test_an_ngram_counts_once_with_the_logarithm_of_its_number(text: str) -> None:
    buckets, weights, starts = hash_ngrams([text], BITS)
    expected = spell(text)

    assert starts.tolist() == [0]
    assert len(buckets) == len(set(buckets.tolist())) == len(expected)
    assert np.allclose(sorted(weights), sorted(1 + np.log(count) for _, count in expected))


@given(st.lists(st.text(max_size=12), max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_text_has_the_same_ngrams_in_any_list(texts: list[str]) -> None:
    buckets, weights, starts = hash_ngrams(texts, BITS)
    ends = [*starts, len(buckets)][1:]

    for text, start, end in zip(texts, starts, ends, strict=True):
        alone, weights_alone, _ = hash_ngrams([text], BITS)
        assert np.array_equal(buckets[start:end], alone)
        assert np.array_equal(weights[start:end], weights_alone)


@pytest.mark.parametrize("other", ["ＡＷＳＬ", " awsl ", "Awsl"])
def test_case_width_and_outer_spaces_do_not_matter(other: str) -> None:
    assert np.array_equal(hash_ngrams(["awsl"], BITS)[0], hash_ngrams([other], BITS)[0])


def test_a_lone_surrogate_is_a_character() -> None:
    assert len(hash_ngrams(["\ud800草"], BITS)[0]) == len(hash_ngrams(["草草!"], BITS)[0]) - 2
