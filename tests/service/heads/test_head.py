"""A head remembers what the n-grams of texts add, and gives the same scores as one that does not."""

from __future__ import annotations

import numpy as np
import pytest

from service.heads import head as module
from service.heads.head import Encoder, Head, Weights

TEXTS = ["草", "这是什么歌", "草草草", "晚安", "x" * 300, "草"]


def make_head(seed: int = 0, bits: int = 8) -> Head:
    """A head with random weights for every bucket."""
    rng = np.random.default_rng(seed)
    ngrams = rng.random((1 << bits, 3)).astype(np.float16)
    weights = Weights(
        rng.random((4, 2), np.float32),
        np.zeros(2, np.float32),
        np.arange(1 << bits, dtype=np.uint32),
        ngrams,
        unseen=1.0,
        bits=bits,
    )
    return Head(("no", "yes"), Encoder("tiny", "f0", (-2,), "REDUCE_MEAN"), weights)


@pytest.mark.parametrize("remembered", [1, 3, 1000])
def test_a_text_has_the_same_scores_however_often_it_comes(monkeypatch: pytest.MonkeyPatch, remembered: int) -> None:
    monkeypatch.setattr(module, "REMEMBERED", remembered)
    head, rng = make_head(), np.random.default_rng(1)

    for _ in range(20):
        texts = [TEXTS[number] for number in rng.integers(0, len(TEXTS), 4)]
        vectors = rng.normal(size=(4, 4)).astype(np.float32)  # those of one text may differ
        assert np.array_equal(head.score(texts, vectors), make_head().score(texts, vectors))


def test_a_head_forgets_so_that_its_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    head = make_head()
    for number in range(100):
        head.score([f"text {number}", "x" * 300], np.ones((2, 4), np.float32))

    assert len(head._scored) + len(head._scored_before) <= 20
    assert not any(len(text) > 100 for text in (*head._scored, *head._scored_before))
