"""Questions of a moment: does a danmaku find what others wrote at the same time, in other words?

Given a danmaku, rank a second one, written within 3 s of it without a common character, among 99 danmaku of other
videos or sessions. Chance has a mean reciprocal rank of 0.05.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.alignment.timed_lines import TimedLines

MOMENT_S, MAX_NEIGHBOURS = 3.0, 20
QUESTIONS = 2000
STRANGERS = 99


@dataclass(frozen=True)
class Moments:
    """The q questions; every number is the number of a text."""

    queries: np.ndarray  # [q]
    answers: np.ndarray  # [q]
    strangers: np.ndarray  # [q, STRANGERS]
    documents: np.ndarray  # [q], their videos or sessions


def ask_moments(
    lines: TimedLines,
    rng: np.random.Generator,
    text_number: Callable[[str], int],
    *,
    most_of_a_document: int,
    pool: int | None = None,
) -> Moments:
    """Draws at most `most_of_a_document` questions from each document, 2,000 in all.

    Strangers are lines of other documents; with `pool`, they come from that many lines, which limits how many texts
    need a vector.
    Raises ValueError if no two danmaku can be asked about.
    """
    first, last = lines.neighbours(MOMENT_S, MAX_NEIGHBOURS)
    edges = np.searchsorted(lines.document_of, np.arange(lines.document_of.max() + 2))
    characters = [set(text) - {" "} for text in lines.texts]
    drawn_from = np.arange(len(lines.text_of))
    if pool is not None:
        drawn_from = np.sort(rng.permutation(drawn_from)[:pool])
    found = []
    for document, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        own_first, own_last = np.searchsorted(drawn_from, [start, end])  # the document's own lines
        num_strangers = len(drawn_from) - (own_last - own_first)
        count = 0
        for line in rng.permutation(np.arange(start, end)):
            ours = characters[lines.text_of[line]]
            others = [o for o in range(first[line], last[line]) if not ours & characters[lines.text_of[o]]]
            if not others or not num_strangers:
                continue
            strangers = rng.integers(0, num_strangers, STRANGERS)
            strangers += np.where(strangers >= own_first, own_last - own_first, 0)
            found.append((line, others[rng.integers(len(others))], drawn_from[strangers], document))
            count += 1
            if count == most_of_a_document:
                break
    if not found:
        raise ValueError(
            "invalid recordings: no held-out video has two danmaku within 3 s that share no character; "
            "expected more videos"
        )
    chosen = rng.permutation(len(found))[:QUESTIONS]
    queries, answers, strangers, documents = (
        np.array(column) for column in zip(*(found[question] for question in chosen), strict=True)
    )
    of_lines = np.vectorize(lambda line: text_number(lines.texts[lines.text_of[line]]), otypes=[np.int64])
    return Moments(of_lines(queries), of_lines(answers), of_lines(strangers), documents)
