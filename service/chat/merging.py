"""Merges danmaku that mean the same within a few seconds of each other, and counts them.

    lines in order of time ─▶ open groups: the same spelling, or the nearest vectors, judged ─▶ joined, or a new group
                              └─ a group closes when its window is over: it has its count, ids and commonest spelling

A line is compared with the first line of a group, so a group does not drift from one meaning to another. Lines with
equal times are processed in the order of their text and id, so the result does not depend on their order of arrival.
Memory holds the lines of one window.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from service.chat.sameness import Judge
from service.chat.spelling import Spelling, spell
from service.errors import TooLarge

WINDOW_S = 20.0
MAX_LINES = 200_000  # within a window; a room of 200 lines/s has 4,000 in 20 s
NEAREST = 4  # open groups that are judged for a line, besides those with similar spelling or sound
Rule = Literal["meaning", "spelling", "identical"]


@dataclass(frozen=True, slots=True)
class Line:
    """One danmaku; `time` in seconds."""

    text: str
    time: float
    id: str


@dataclass(frozen=True, slots=True)
class Group:
    """Danmaku that mean the same within a window."""

    text: str  # the commonest spelling; on a tie the first
    count: int
    first: float  # seconds
    last: float
    ids: list[str]  # in the order of time


@dataclass(slots=True)
class _OpenGroup:
    number: int  # of all groups
    spelling: Spelling  # of the first line, with which others are compared
    first: float
    last: float
    ids: list[str] = field(default_factory=list)
    spellings: Counter[str] = field(default_factory=Counter)

    def close(self) -> Group:
        (text, _), *_ = self.spellings.most_common(1)  # the first of equals, in order of arrival
        return Group(text, len(self.ids), self.first, self.last, self.ids)


class Merger:
    """Merges a stream of lines. `add` takes lines in order of time and returns the finished groups."""

    def __init__(
        self,
        judge: Judge,
        dim: int,
        *,
        window_s: float = WINDOW_S,
        threshold: float | None = None,
        rule: Rule = "meaning",
    ) -> None:
        """`threshold` is the probability from which lines are merged; by default the judge's own."""
        self._judge, self._window_s, self._rule = judge, window_s, rule
        self._threshold = judge.weights.same_at if threshold is None else threshold
        self._least_cosine = judge.find_least_cosine(self._threshold)
        self._groups: deque[_OpenGroup] = deque()
        self._vectors = np.zeros((64, dim), np.float32)  # [rows, dim], of the open groups from `_start` on
        self._start = 0
        self._group_of: dict[str, _OpenGroup] = {}  # by text
        self._alike: dict[str, list[_OpenGroup]] = {}  # by folded spelling, content, and sound
        self._pending: list[tuple[Line, np.ndarray]] = []  # of equal time
        self._held = 0  # lines in open groups and pending
        self.opened = 0  # groups so far

    def add(self, lines: Iterable[Line], vectors: np.ndarray) -> Iterator[Group]:
        """Adds lines with their vectors [n, dim] of length 1, NaN where there is none, and returns finished groups.

        Raises ValueError for a time that is not a number or is before the previous line's, and TooLarge for more than
        MAX_LINES within a window.
        """
        for line, vector in zip(lines, vectors, strict=True):
            if not math.isfinite(line.time):
                raise ValueError(f"invalid time: {line.time}; expected seconds")
            if self._pending and line.time != (before := self._pending[0][0].time):
                if line.time < before:
                    raise ValueError(f"invalid time: {line.time:g} after {before:g}; expected lines in order of time")
                yield from self._take_pending()
            if self._held >= MAX_LINES:
                raise TooLarge(f"too many lines: more than {MAX_LINES} within a window; expected a shorter window_s")
            self._held += 1
            self._pending.append((line, vector))

    def finish(self) -> Iterator[Group]:
        """Returns the groups that are still open."""
        yield from self._take_pending()
        while self._groups:
            yield self._close_first()

    def _take_pending(self) -> Iterator[Group]:
        for line, vector in sorted(self._pending, key=lambda pair: (pair[0].text, pair[0].id)):
            while self._groups and line.time - self._groups[0].first > self._window_s:
                yield self._close_first()
            self._take(line, vector)
        self._pending.clear()

    def _take(self, line: Line, vector: np.ndarray) -> None:
        group = self._group_of.get(line.text)
        if group is None:
            group = self._find(line.text, vector) or self._open(line, vector)
            self._group_of[line.text] = group
        group.ids.append(line.id)
        group.spellings[line.text] += 1
        group.last = line.time

    def _find(self, text: str, vector: np.ndarray) -> _OpenGroup | None:
        """Returns the open group that most probably means the same as a text not yet in any, or None."""
        if self._rule == "identical" or not self._groups:
            return None
        spelling = spell(text)
        if self._rule == "spelling":
            return next(iter(self._alike.get(spelling.folded, [])), None)
        cosines = self._vectors[self._start : self._start + len(self._groups)] @ vector  # [groups]
        near = np.flatnonzero(cosines >= self._least_cosine)  # NaN is not
        nearest = near[np.argsort(-cosines[near], kind="stable")[:NEAREST]]
        first = self._groups[0].number
        candidates = {first + int(place): self._groups[int(place)] for place in nearest}
        candidates |= {group.number: group for key in _keys(spelling) for group in self._alike.get(key, [])}
        best, best_probability = None, self._threshold
        for number, group in sorted(candidates.items()):
            probability = self._judge.find_probability(group.spelling, spelling, float(cosines[number - first]))
            if probability >= best_probability and (best is None or probability > best_probability):
                best, best_probability = group, probability
        return best

    def _open(self, line: Line, vector: np.ndarray) -> _OpenGroup:
        group = _OpenGroup(self.opened, spell(line.text), line.time, line.time)
        self.opened += 1
        end = self._start + len(self._groups)
        if end == len(self._vectors):
            kept = self._vectors[self._start : end]
            grown = np.zeros((max(64, 2 * len(kept)), kept.shape[1]), np.float32)
            grown[: len(kept)] = kept
            self._vectors, self._start, end = grown, 0, len(kept)
        self._vectors[end] = vector
        self._groups.append(group)
        for key in _keys(group.spelling):
            self._alike.setdefault(key, []).append(group)
        return group

    def _close_first(self) -> Group:
        group = self._groups.popleft()
        self._start += 1
        self._held -= len(group.ids)
        for text in group.spellings:
            del self._group_of[text]
        for key in _keys(group.spelling):
            self._alike[key].remove(group)
            if not self._alike[key]:
                del self._alike[key]
        return group.close()


def _keys(spelling: Spelling) -> set[str]:
    return {spelling.folded, spelling.content, spelling.sounds}


def merge(
    lines: Sequence[Line],
    vectors: np.ndarray,
    judge: Judge,
    *,
    window_s: float = WINDOW_S,
    threshold: float | None = None,
    rule: Rule = "meaning",
) -> list[Group]:
    """Merges lines in any order, with their vectors [n, dim] of length 1; returns groups in the order of their start.

    Raises ValueError for a time that is not a number.
    """
    order = sorted(range(len(lines)), key=lambda index: (lines[index].time, lines[index].text, lines[index].id))
    merger = Merger(judge, vectors.shape[1], window_s=window_s, threshold=threshold, rule=rule)
    found = list(merger.add([lines[index] for index in order], vectors[order]))
    return [*found, *merger.finish()]
