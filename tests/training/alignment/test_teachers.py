"""The encoder learns from vectors of n-grams, which unseen danmaku have, too, and from those of stored texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from service.tokenizer import SPECIAL_TOKENS, Tokenizer
from training.alignment import cooccurrence, ngrams, relations, teacher
from training.alignment.cooccurrence import Cooccurrence, CooccurrenceSettings
from training.alignment.relations import TaughtTexts
from training.alignment.teacher import Taught
from training.alignment.timed_lines import TimedLines, kinds_of

GROUPS = (("晚安", "晚安啦", "拜拜", "下次见"), ("草", "哈哈", "笑死", "笑死了"), ("好听", "神曲", "太好听", "唱得好"))
TOKENIZER = Tokenizer(
    [*SPECIAL_TOKENS, *sorted({character for group in GROUPS for text in group for character in text})]
)


@pytest.fixture(scope="module")
def model() -> Cooccurrence:
    """Counts of sixty videos; in each, every group speaks at a minute of its own."""
    rng = np.random.default_rng(3)
    texts = [text for group in GROUPS for text in group]
    ids = TOKENIZER.ids(texts)
    spoken = [rng.permutation(group) for _ in range(60) for group in GROUPS]
    size = len(GROUPS[0])
    lines = TimedLines(
        texts,
        np.array([token for text in ids for token in text], np.int32),
        np.cumsum([0, *map(len, ids)]).astype(np.int64),
        np.array([texts.index(text) for group in spoken for text in group], np.int32),
        np.array([60.0 * (turn % len(GROUPS)) + second for turn in range(len(spoken)) for second in range(size)]),
        np.repeat(np.arange(60), size * len(GROUPS)).astype(np.int32),
        kinds_of(texts),
    )
    return cooccurrence.fit(lines, CooccurrenceSettings(min_context_count=2, min_pair_count=1, dim=3))


def test_an_unseen_danmaku_has_the_meaning_of_its_ngrams(model: Cooccurrence) -> None:
    unseen, unknown = ngrams.fit(model)(["晚安晚安", "龙"])
    night, laughter = (model.vectors[model.row_of[model.lines.texts.index(text)]] for text in ("下次见", "哈哈"))
    assert np.linalg.norm(unseen) == pytest.approx(1)
    assert unseen @ night > 0.5 > unseen @ laughter
    assert not unknown.any()


def test_spaces_are_no_part_of_an_ngram(model: Cooccurrence) -> None:
    together, apart = ngrams.fit(model)(["晚安", "晚 安"])
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_the_vectors_of_ngrams_have_the_least_squared_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "TOLERANCE", 1e-5)
    rng = np.random.default_rng(5)
    features, vectors, weights = rng.random((30, 8)), rng.normal(size=(30, 3)), rng.random(30)
    square = features.T @ (weights[:, None] * features) + ngrams.REGULARISATION * np.eye(8)
    expected = np.linalg.solve(square, features.T @ (weights[:, None] * vectors))
    found = ngrams._least_squares(sparse.csr_matrix(features), vectors, weights)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_half_of_the_danmaku_are_the_commonest(model: Cooccurrence, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = model.lines
    counted = TimedLines(
        lines.texts, lines.tokens, lines.starts, np.repeat([5, 6, 7, 8], [9, 8, 7, 1]), *[np.zeros(25)] * 2, lines.kinds
    )
    monkeypatch.setattr(ngrams, "MOST_TOKENS", 2)
    chosen = ngrams.choose_danmaku(counted, 4, seed=1)
    assert [lines.texts[number] for number in chosen[:2]] == ["哈哈", "笑死"]  # 笑死了 has three tokens
    assert len(set(chosen.tolist())) == 4
    assert all(len(lines.ids(number)) <= 2 for number in chosen)


def test_stored_vectors_are_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run continues where it was, and refuses stored vectors of other texts."""
    monkeypatch.setattr(teacher, "CHUNK", 2)
    asked: list[list[str]] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.append(texts)
        return np.array([[len(text), 1.0] for text in texts])

    texts = ["草", "哈哈", "笑死了"]
    teacher.teach(tmp_path, texts[:2], lambda: embed)
    taught = teacher.teach(tmp_path, texts, lambda: embed)
    assert asked == [["草", "哈哈"], ["笑死了"]]
    assert taught.vectors[:, 0].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="vectors of other texts"):
        teacher.teach(tmp_path, ["晚安", *texts], lambda: embed)


def test_a_text_is_drawn_by_its_weight_and_with_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "NEIGHBOURS", 3)
    texts = [text for group in GROUPS for text in group]
    directions = np.repeat(np.eye(len(GROUPS)), len(GROUPS[0]), axis=0)
    vectors = directions + 0.01 * np.random.default_rng(1).normal(size=directions.shape)
    weights = np.array([1.0] + [0.0] * (len(texts) - 1))
    taught = TaughtTexts.of(Taught(texts, vectors), TOKENIZER, weights)
    drawn = taught.draw(np.random.default_rng(2), 40)
    assert {texts[number] for number in drawn} == set(GROUPS[0])
