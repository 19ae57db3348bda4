"""Judges danmaku vectors as a bot uses them, to search and to merge.

    same moment   moments.py: does a danmaku find what others wrote in the same seconds of a held-out video, or of a
                  held-out live session?
    synonyms      synonyms.tsv, pairs that viewers use for the same thing: where does one rank from the other,
                  among the 1,000 commonest danmaku? Also by kind, with variants of either left out of the 1,000
    variants      variants.tsv, two spellings of one danmaku: the same question
    words of 2020 synonyms-2020.tsv: the same question among the commonest danmaku of live rooms
    opposites     opposites.tsv: are opposites further apart than variants and synonyms?
    hubs          are the same few danmaku near everything?
    strangers     how close are danmaku of different videos?

Ranks are mean reciprocal ranks, where 1 is perfect and chance is 0.05 for moments and 0.007 for pairs. Alignment and
uniformity are those of arXiv 2005.10242: how far apart danmaku of one moment are, and how evenly all are spread; for
both, less is better.

The questions depend only on the recordings and one frozen seed, and are the same for every model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.alignment.timed_lines import TimedLines
from training.evaluation.intervals import SEED, Mean, bootstrap_mean
from training.evaluation.labelled import Labelled
from training.evaluation.moments import Moments, ask_moments
from training.evaluation.pairs import SPLITS, Opposites, Pair, are_variants, fold, judge_opposites
from training.evaluation.space import Matrix, Strangers, compare_rows, judge_strangers, measure_hubs

QUESTIONS_PER_VIDEO, QUESTIONS_PER_SESSION = 20, 200
LIVE_STRANGERS = 5000  # lines that the strangers of live sessions are drawn from
FREQUENT = 1000
RANDOM_PAIRS = 20_000


@dataclass(frozen=True)
class PairQuestion:
    """A pair, with the numbers of its texts."""

    first: int
    second: int
    pair: Pair
    is_variant: np.ndarray  # bool, of each of the commonest danmaku: is it a variant of either?


@dataclass(frozen=True)
class Questions:
    """All questions of one evaluation, the same for every model. Danmaku are numbers into `texts`."""

    texts: list[str]
    moments: Moments
    frequent: np.ndarray  # [FREQUENT], the commonest danmaku of the videos
    synonyms: list[PairQuestion]
    variants: list[PairQuestion]
    opposites: list[PairQuestion]
    random: np.ndarray  # [RANDOM_PAIRS, 2]
    are_strangers: np.ndarray  # bool [RANDOM_PAIRS], from different videos, differing in more than repeats and marks
    live_moments: Moments | None = None
    live_frequent: np.ndarray | None = None
    synonyms_2020: Sequence[PairQuestion] = ()

    def first(self, moments: int, random: int) -> Questions:
        """Returns only this many questions of a moment and random pairs, for a slow model.

        Texts keep their numbers; those that are not needed are empty.
        """
        cut = replace(
            self,
            moments=_first(self.moments, moments),
            live_moments=self.live_moments and _first(self.live_moments, moments),
            random=self.random[:random],
            are_strangers=self.are_strangers[:random],
        )
        used = set(np.concatenate([part.ravel() for part in cut._numbers()]).tolist())
        return replace(cut, texts=[text if place in used else "" for place, text in enumerate(self.texts)])

    def _numbers(self) -> list[np.ndarray]:
        pairs = [*self.synonyms, *self.variants, *self.opposites, *self.synonyms_2020]
        parts = [self.frequent, self.random, np.array([(pair.first, pair.second) for pair in pairs])]
        for moments in (self.moments, self.live_moments):
            parts += [] if moments is None else [moments.queries, moments.answers, moments.strangers]
        return parts if self.live_frequent is None else [*parts, self.live_frequent]


@dataclass(frozen=True)
class Retrieval:
    """The results of one model or baseline."""

    name: str
    same_moment: Mean
    same_moment_accuracy: float  # how often the right one is first
    synonyms: Mean
    synonyms_without_shared_characters: Mean
    variants: Mean
    alignment: float
    uniformity: float
    synonyms_without_variants: Mean  # variants of either left out of the commonest danmaku
    synonyms_by_kind: dict[str, Mean]  # variants left out, too
    opposites: dict[str, Opposites]  # by split
    hubs: Mean
    strangers: Strangers
    same_moment_live: Mean | None = None
    same_moment_live_accuracy: float | None = None
    synonyms_2020: Mean | None = None
    labelled: Labelled | None = None  # results on labelled tasks


def ask(
    train: TimedLines,
    heldout: TimedLines,
    *,
    synonyms: Sequence[Pair] = (),
    variants: Sequence[Pair] = (),
    opposites: Sequence[Pair] = (),
    synonyms_2020: Sequence[Pair] = (),
    live_train: TimedLines | None = None,
    live_heldout: TimedLines | None = None,
) -> Questions:
    """Asks about the held-out lines, and about pairs among the commonest danmaku of the others.

    Raises ValueError if the held-out videos or sessions have no two danmaku to ask about.
    """
    rng = np.random.default_rng(SEED)
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    def commonest(lines: TimedLines) -> np.ndarray:
        order = np.argsort(-lines.counts, kind="stable")[:FREQUENT]
        return np.array([number(lines.texts[text]) for text in order])

    def pairs_among(pairs: Sequence[Pair], frequent: np.ndarray) -> list[PairQuestion]:
        known = list(texts)
        folded = [fold(known[text]) for text in frequent]
        return [_make_question(pair, number, folded) for pair in pairs]

    moments = ask_moments(heldout, rng, number, most_of_a_document=QUESTIONS_PER_VIDEO)
    random = rng.integers(0, len(heldout.text_of), (RANDOM_PAIRS, 2))
    kinds = heldout.kinds[heldout.text_of[random]]
    documents = heldout.document_of[random]
    frequent = commonest(train)
    questions = Questions(
        texts=[],
        moments=moments,
        frequent=frequent,
        synonyms=pairs_among(synonyms, frequent),
        variants=pairs_among(variants, frequent),
        opposites=pairs_among(opposites, frequent),
        random=np.vectorize(lambda line: number(heldout.texts[heldout.text_of[line]]), otypes=[np.int64])(random),
        are_strangers=(kinds[:, 0] != kinds[:, 1]) & (documents[:, 0] != documents[:, 1]),
    )
    if live_train is not None and live_heldout is not None:
        live_rng = np.random.default_rng(SEED)
        live_frequent = commonest(live_train)
        questions = replace(
            questions,
            live_moments=ask_moments(
                live_heldout, live_rng, number, most_of_a_document=QUESTIONS_PER_SESSION, pool=LIVE_STRANGERS
            ),
            live_frequent=live_frequent,
            synonyms_2020=pairs_among(synonyms_2020, live_frequent),
        )
    return replace(questions, texts=list(texts))


def answer(name: str, vectors: Matrix, questions: Questions) -> Retrieval:
    """Judges the vectors of `questions.texts`: rows of length 1, or 0 for an unknown text."""
    same_moment, accuracy = _judge_moments(vectors, questions.moments)
    live, live_accuracy = _judge_moments(vectors, questions.live_moments) if questions.live_moments else (None, None)
    ranks = _ranks_of_pairs(vectors, questions.frequent, questions.synonyms)
    strict = _ranks_of_pairs(vectors, questions.frequent, questions.synonyms, without_variants=True)
    apart = np.array([not question.pair.shares_a_character for question in questions.synonyms])
    kinds = np.array([question.pair.kind for question in questions.synonyms])
    near = {
        name: compare_rows(
            vectors, *np.array([(question.first, question.second) for question in pairs]).reshape(-1, 2).T
        )
        for name, pairs in (("synonyms", questions.synonyms), ("variants", questions.variants))
    }
    live_frequent = questions.live_frequent
    return Retrieval(
        name,
        same_moment=same_moment,
        same_moment_accuracy=accuracy,
        synonyms=_mean_of_pairs(ranks),
        synonyms_without_shared_characters=_mean_of_pairs(ranks[apart]),
        variants=_mean_of_pairs(_ranks_of_pairs(vectors, questions.frequent, questions.variants)),
        alignment=float((2 - 2 * compare_rows(vectors, questions.moments.queries, questions.moments.answers)).mean()),
        uniformity=float(np.log(np.exp(-2 * (2 - 2 * compare_rows(vectors, *questions.random.T))).mean())),
        synonyms_without_variants=_mean_of_pairs(strict),
        synonyms_by_kind={kind: _mean_of_pairs(strict[kinds == kind]) for kind in dict.fromkeys(kinds.tolist())},
        opposites={split: _judge_opposites(vectors, questions.opposites, split, near) for split in SPLITS},
        hubs=measure_hubs(vectors[questions.frequent]),
        strangers=judge_strangers(compare_rows(vectors, *questions.random[questions.are_strangers].T)),
        same_moment_live=live,
        same_moment_live_accuracy=live_accuracy,
        synonyms_2020=None
        if live_frequent is None
        else _mean_of_pairs(_ranks_of_pairs(vectors, live_frequent, questions.synonyms_2020, without_variants=True)),
    )


def rank(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Returns the rank of the right one among the wrong ones, from 1; ties get the middle: [q], [q, w] → [q]."""
    return np.asarray(1 + (wrong > right[:, None]).sum(1) + (wrong == right[:, None]).sum(1) / 2)


def _first(moments: Moments, count: int) -> Moments:
    return Moments(
        moments.queries[:count], moments.answers[:count], moments.strangers[:count], moments.documents[:count]
    )


def _make_question(pair: Pair, number: Callable[[str], int], folded: list[str]) -> PairQuestion:
    ours = fold(pair.first), fold(pair.second)
    is_variant = np.array([any(are_variants(other, one) for one in ours) for other in folded])
    return PairQuestion(number(pair.first), number(pair.second), pair, is_variant)


def _judge_moments(vectors: Matrix, moments: Moments) -> tuple[Mean, float]:
    """Returns the mean reciprocal rank, and how often the right one is first."""
    found = rank(
        compare_rows(vectors, moments.queries, moments.answers),
        compare_rows(vectors, moments.queries[:, None], moments.strangers),
    )
    return bootstrap_mean(1 / found, moments.documents), float((found < 2).mean())


def _ranks_of_pairs(
    vectors: Matrix, frequent: np.ndarray, pairs: Sequence[PairQuestion], *, without_variants: bool = False
) -> np.ndarray:
    """Ranks both directions of every pair: [p, 2]."""
    return np.array(
        [
            [
                _rank(vectors, one, other, frequent[~question.is_variant] if without_variants else frequent)
                for one, other in ((question.first, question.second), (question.second, question.first))
            ]
            for question in pairs
        ]
    ).reshape(-1, 2)


def _rank(vectors: Matrix, query: int, answer: int, candidates: np.ndarray) -> float:
    others = candidates[(candidates != query) & (candidates != answer)]
    right = compare_rows(vectors, np.array([query]), np.array([answer]))
    return float(rank(right, compare_rows(vectors, np.array([[query]]), others[None]))[0])


def _mean_of_pairs(found: np.ndarray) -> Mean:
    """Returns the mean reciprocal rank of ranks [p, 2]; the two directions of a pair are one cluster."""
    return bootstrap_mean(1 / found.ravel(), np.repeat(np.arange(len(found)), 2))


def _judge_opposites(
    vectors: Matrix, opposites: Sequence[PairQuestion], split: str, near: dict[str, np.ndarray]
) -> Opposites:
    questions = [question for question in opposites if question.pair.split == split]
    found = compare_rows(vectors, *np.array([(question.first, question.second) for question in questions]).T)
    return judge_opposites(found, [question.pair.kind for question in questions], near["variants"], near["synonyms"])
