"""Danmaku of the same moments have close vectors, whatever their words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.tokenizer import SPECIAL_TOKENS, Tokenizer
from training.alignment import cooccurrence
from training.alignment.cooccurrence import Cooccurrence, CooccurrenceSettings
from training.alignment.timed_lines import TimedLines, kinds_of

GROUPS = (("晚安", "拜拜", "下次见"), ("草", "哈哈", "笑死"), ("好听", "神曲", "唱得好"))
TOKENIZER = Tokenizer(
    [*SPECIAL_TOKENS, *sorted({character for group in GROUPS for text in group for character in text})]
)
SETTINGS = CooccurrenceSettings(min_context_count=2, min_pair_count=1, dim=4)


def timed(*videos: list[tuple[str, float]]) -> TimedLines:
    texts = list(dict.fromkeys(text for video in videos for text, _ in video))
    ids = TOKENIZER.ids(texts)
    return TimedLines(
        texts,
        np.array([token for text in ids for token in text], np.int32),
        np.cumsum([0, *map(len, ids)]).astype(np.int64),
        np.array([texts.index(text) for video in videos for text, _ in video], np.int32),
        np.array([second for video in videos for _, second in video], np.float32),
        np.array([number for number, video in enumerate(videos) for _ in video], np.int32),
        kinds_of(texts),
    )


@pytest.fixture(scope="module")
def lines() -> TimedLines:
    """Sixty videos; in each, every group speaks at a minute of its own, in random order."""
    rng = np.random.default_rng(3)
    return timed(
        *(
            [
                (text, 60.0 * minute + second)
                for minute, group in enumerate(GROUPS)
                for second, text in enumerate(rng.permutation(group))
            ]
            for _ in range(60)
        )
    )


@pytest.fixture(scope="module")
def model(lines: TimedLines) -> Cooccurrence:
    return cooccurrence.fit(lines, SETTINGS)


def test_a_shortened_model_keeps_the_first_dimensions(model: Cooccurrence) -> None:
    short, numbers = model.shortened(2), np.arange(6)
    assert short.vectors.shape == (len(model.rows), 2)
    np.testing.assert_allclose(np.linalg.norm(short.vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        np.sum(short.vectors * model.vectors[:, :2], 1), np.linalg.norm(model.vectors[:, :2], axis=1), atol=1e-6
    )
    assert short.moments(numbers).shape == short.targets(numbers).shape == (6, 2)


def test_danmaku_of_one_moment_are_close_without_a_common_character(model: Cooccurrence) -> None:
    texts = [model.lines.texts[row] for row in model.rows]
    cosines = model.vectors @ model.vectors.T
    for group in GROUPS:
        inside = [texts.index(text) for text in group]
        outside = [number for number in range(len(texts)) if number not in inside]
        assert cosines[np.ix_(inside, inside)].min() > cosines[np.ix_(inside, outside)].max()


def test_a_moment_is_close_to_danmaku_of_similar_moments(model: Cooccurrence) -> None:
    """So a danmaku that was seen once has a vector, too."""
    lines = model.lines
    moments = model.moments(np.arange(9))
    nearest = model.rows[(moments @ model.vectors.T).argmax(1)]
    group_of = {text: number for number, group in enumerate(GROUPS) for text in group}
    assert [group_of[lines.texts[text]] for text in nearest] == [
        group_of[lines.texts[text]] for text in lines.text_of[:9]
    ]


def test_a_target_has_length_1_and_approaches_the_mean_of_its_occurrences(model: Cooccurrence) -> None:
    numbers = np.arange(9)
    targets = model.targets(numbers)
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1, atol=1e-5)
    whole = model.vectors[model.row_of[model.lines.text_of[numbers]]]
    assert ((targets * whole).sum(1) > (targets * model.moments(numbers)).sum(1) - 1e-6).all()  # 60 against 3


def test_a_line_among_its_own_copies_has_no_moment() -> None:
    lines = timed(
        [("草", 0.0), ("草草草", 1.0), ("草！", 2.0)], *([(t, float(s)) for s, t in enumerate(g)] for g in GROUPS * 4)
    )
    model = cooccurrence.fit(lines, CooccurrenceSettings(min_context_count=2, min_pair_count=1, dim=3))
    assert not model.moments(np.array([0, 1, 2])).any()
    assert model.moments(np.array([3])).any()


def test_too_few_danmaku_are_refused(lines: TimedLines) -> None:
    with pytest.raises(ValueError, match="9 danmaku occur in at least 3 lines.*too few for 64 dimensions"):
        cooccurrence.fit(lines, CooccurrenceSettings(min_context_count=2, min_pair_count=1, dim=64))


def test_loading_restores_what_was_saved(model: Cooccurrence, tmp_path: Path) -> None:
    cooccurrence.save(tmp_path / cooccurrence.FILE, model)
    again = cooccurrence.load(tmp_path / cooccurrence.FILE, model.lines)
    assert again.settings == model.settings
    numbers = np.arange(20)
    np.testing.assert_array_equal(again.targets(numbers), model.targets(numbers))
