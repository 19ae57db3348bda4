"""Finds the topics of a chat and the replies to its lines from their vectors, without network or clock.

Danmaku that mean the same are near each other, but all danmaku have something in common, which makes everything look
alike. So the mean of all that was said is taken away first; what is left points to what a line is about. Topics are
then lines within a cosine of `SAME_TOPIC` of one of them, the largest such group first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from danmaku_client import SimilarMatch

WINDOW_S = 60.0
SAME_TOPIC = 0.5  # at 0.6 「晚安」 and 「主播晚安」 are two topics, at 0.45 「再来一首」 and 「好听」 one
MOST_TOPICS = 5
PAUSE_S = 30.0  # before the same is replied again


@dataclass(frozen=True)
class Topic:
    representative: str  # what was said most
    lines: int
    others: Sequence[str]  # the commonest other wordings


@dataclass(frozen=True)
class Reply:
    line: str
    says: str
    score: float  # cosine with the line of the script that it is the answer to


class Script:
    """Pairs of lines and replies: a line gets the reply of the line that says the same, never of its opposite."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.heard, self._says = [heard for heard, _ in pairs], [says for _, says in pairs]
        self._said_at: dict[str, float] = {}

    def reply(self, line: str, at_s: float, matches: Sequence[SimilarMatch]) -> Reply | None:
        """Returns the reply to a line, given the lines of `heard` that are nearest to it, by their places."""
        same = next((match for match in matches if match.relation == "same"), None)
        if same is None:
            return None
        says = self._says[int(same.id)]
        if at_s - self._said_at.get(says, -PAUSE_S) < PAUSE_S:
            return None
        self._said_at[says] = at_s
        return Reply(line, says, same.score)


class Chat:
    """The last minute, with a vector of length 1 for every line."""

    def __init__(self, dim: int) -> None:
        self._window: deque[tuple[float, str, np.ndarray]] = deque()
        self._sum, self._count = np.zeros(dim), 0

    def add(self, line: str, at_s: float, vector: np.ndarray) -> None:
        self._window.append((at_s, line, vector))
        self._sum += vector
        self._count += 1

    def lines(self, now_s: float) -> int:
        while self._window and self._window[0][0] <= now_s - WINDOW_S:
            self._window.popleft()
        return len(self._window)

    def topics(self, now_s: float) -> list[Topic]:
        """Returns the topics that several lines of the last minute share, the largest first."""
        if not self.lines(now_s):
            return []
        vector_of = {line: vector for _, line, vector in self._window}
        wordings, said = list(vector_of), Counter(line for _, line, _ in self._window)
        times = np.array([said[wording] for wording in wordings])
        vectors = np.stack([vector_of[wording] for wording in wordings]) - self._sum / self._count  # [n, dim]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
        alike = vectors @ vectors.T >= SAME_TOPIC  # [n, n]
        np.fill_diagonal(alike, True)  # also where nothing is left of a vector without the mean
        topics: list[Topic] = []
        while len(topics) < MOST_TOPICS:
            sizes = alike @ times  # of the group around each, of what is left
            center = int(sizes.argmax())
            if sizes[center] < 2:
                break
            members = np.flatnonzero(alike[center])
            ranked = sorted(members, key=lambda member: (-times[member], -sizes[member]))
            first, *others = [wordings[member] for member in ranked]
            topics.append(Topic(first, int(sizes[center]), others[:4]))
            alike[members] = False
            alike[:, members] = False
        return topics
