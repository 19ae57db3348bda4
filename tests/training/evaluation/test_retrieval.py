"""Retrieval questions with one right answer each, the same for every kind of vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.tokenizer import Tokenizer
from training.alignment.timed_lines import TimedLines, read_moments
from training.evaluation.moments import Moments
from training.evaluation.pairs import Pair
from training.evaluation.retrieval import Questions, answer, ask

PAIRS = {
    "synonyms": [Pair("草", "哈 哈 哈", "reaction"), Pair("可 爱", "kawaii", "translation")],
    "variants": [Pair("草", "草 草", "repeats")],
    "opposites": [Pair("好 听", "难 听", "antonym", "dev"), Pair("开 播", "下 播", "event", "test")],
    "synonyms_2020": [Pair("qs", "确 实", "abbreviation")],
}


@pytest.fixture(scope="module")
def lines(danmaku: Path) -> dict[str, TimedLines]:
    tokenizer = Tokenizer.from_file(Path(__file__).parents[3] / "models/danmaku-bert-mini/vocab.txt")
    return {split: read_moments([danmaku], tokenizer, split=split, heldout=0.4) for split in ("train", "heldout")}


@pytest.fixture(scope="module")
def questions(lines: dict[str, TimedLines]) -> Questions:
    return ask(lines["train"], lines["heldout"], **PAIRS, live_train=lines["train"], live_heldout=lines["heldout"])


def test_a_rank_is_1_if_the_right_answer_is_nearest(questions: Questions) -> None:
    """Without information it is what chance gives."""
    first, second = questions.synonyms[0].first, questions.synonyms[0].second
    vectors = np.zeros((len(questions.texts), 3), np.float32)
    vectors[:, 0] = 1.0
    vectors[[first, second]] = [0.0, 1.0, 0.0]
    found = answer("two are alike", vectors, questions)
    assert found.synonyms_by_kind["reaction"].value == 1.0 and found.synonyms_by_kind["reaction"].count == 2
    assert found.synonyms_without_shared_characters.count == 4
    blind = answer("nothing", np.zeros((len(questions.texts), 3), np.float32), questions)
    assert blind.same_moment.value == pytest.approx(1 / 50.5)
    assert blind.same_moment_accuracy == 0.0
    assert blind.same_moment_live is not None and blind.same_moment_live.value == pytest.approx(1 / 50.5)
    assert blind.opposites["test"].against_variants.value == 0.5
    assert blind.strangers.mean.value == 0.0


def test_variants_of_the_query_are_not_wrong_answers(lines: dict[str, TimedLines]) -> None:
    """The variant is ranked before the synonym, and is left out of the questions about variants."""
    commonest = [lines["train"].texts[text] for text in np.argsort(-lines["train"].counts)]
    variant = next(text for text in commonest if len(text) > 3)
    pairs = PAIRS | {"synonyms": [Pair(f"{variant} !", "kawaii", "translation")]}
    questions = ask(lines["train"], lines["heldout"], **pairs)
    asked = questions.synonyms[0]
    vectors = np.zeros((len(questions.texts), 3), np.float32)
    vectors[asked.first], vectors[questions.texts.index(variant)] = [1, 0, 0], [1, 0, 0]
    vectors[asked.second] = [0.8, 0.6, 0]
    found = answer("a variant is nearest", vectors, questions)
    assert found.synonyms.value == pytest.approx((1 / 2 + 1 / 1.5) / 2)  # second; back, as near as the right one
    assert found.synonyms_without_variants.value == 1.0


def test_opposites_are_judged_by_split(questions: Questions) -> None:
    """Pairs of the dev split do not affect the test split."""
    vectors = np.random.default_rng(1).standard_normal((len(questions.texts), 50)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    merged = questions.opposites[0]
    vectors[merged.first] = vectors[merged.second]
    for asked in questions.variants:  # less near than that, by more than rounding
        vectors[asked.first] = 0.8 * vectors[asked.second] + 0.6 * vectors[asked.first]
        vectors[asked.first] /= np.linalg.norm(vectors[asked.first])
    found = answer("dev merged", vectors, questions)
    assert found.opposites["dev"].false_merges.value == 1.0
    assert found.opposites["test"].false_merges.value == 0.0
    assert found.opposites["test"].against_variants.value == 1.0


def test_questions_are_of_one_moment_and_strangers_of_other_videos(
    lines: dict[str, TimedLines], questions: Questions
) -> None:
    heldout = lines["heldout"]
    videos_of: dict[str, set[int]] = {}
    moments_of: dict[str, list[tuple[int, float]]] = {}
    for text, video, second in zip(heldout.text_of, heldout.document_of, heldout.seconds, strict=True):
        videos_of.setdefault(heldout.texts[text], set()).add(int(video))
        moments_of.setdefault(heldout.texts[text], []).append((int(video), float(second)))
    assert questions.live_moments is not None
    for moments in (questions.moments, questions.live_moments):
        assert len(moments.asked) > 20 and moments.strangers.shape[1] == 99
        for asked, wanted, strangers, video in zip(
            moments.asked, moments.wanted, moments.strangers, moments.documents, strict=True
        ):
            one, other = questions.texts[asked], questions.texts[wanted]
            assert not set(one) & set(other) - {" "}
            assert any(v == w and abs(s - t) <= 3 for v, s in moments_of[one] for w, t in moments_of[other])
            assert all(videos_of[questions.texts[stranger]] - {int(video)} for stranger in strangers)


def test_strangers_are_of_different_videos_and_written_differently(
    lines: dict[str, TimedLines], questions: Questions
) -> None:
    heldout = lines["heldout"]
    kind_of_text = dict(zip(heldout.texts, heldout.kinds, strict=True))
    pairs = questions.random[questions.are_strangers]
    assert 0 < len(pairs) < len(questions.random)
    for one, other in pairs:
        assert kind_of_text[questions.texts[one]] != kind_of_text[questions.texts[other]]


def test_questions_are_reproducible(lines: dict[str, TimedLines], questions: Questions) -> None:
    again = ask(lines["train"], lines["heldout"], **PAIRS)
    assert again.texts == questions.texts[: len(again.texts)]
    np.testing.assert_array_equal(again.moments.strangers, questions.moments.strangers)
    assert again.live_moments is None


def test_the_first_questions_need_fewer_texts(questions: Questions) -> None:
    """The others are empty, so positions of texts stay the same."""
    assert questions.live_moments is not None
    moments, live = (  # a corpus as small as this has no text that is neither frequent nor a stranger of somebody
        replace(each, strangers=each.strangers[:, :5]) for each in (questions.moments, questions.live_moments)
    )
    few = replace(questions, moments=moments, live_moments=live, frequent=questions.frequent[:5], live_frequent=None)
    cut = few.first(moments=2, random=5)
    assert isinstance(cut.live_moments, Moments)
    assert len(cut.moments.asked) == len(cut.live_moments.asked) == 2 and len(cut.random) == 5
    needed = {*cut.moments.strangers.ravel(), *cut.random.ravel(), *cut.frequent, cut.opposites[1].second}
    assert all(cut.texts[text] == questions.texts[text] for text in needed)
    assert cut.texts.count("") > 0


def test_one_video_is_too_few(lines: dict[str, TimedLines]) -> None:
    only = lines["heldout"]
    first = only.document_of == only.document_of[0]
    of_first = {name: getattr(only, name)[first] for name in ("text_of", "seconds", "document_of")}
    with pytest.raises(ValueError, match="expected more videos"):
        ask(lines["train"], replace(only, **of_first), **PAIRS)
