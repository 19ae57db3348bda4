"""Tracks the current topics of a chat; each keeps its identity while it lasts.

    line ─▶ the topic that has its text, or the nearest ones, judged: means the same, else about the same ─▶ joined
                                                                      neither ─────────────────────────▶ a new topic

A topic is identified by its first line, which others are compared with, so it does not drift. It keeps its number while
the room remembers it, even if it is silent for a while. Memory is limited to the lines of one window and MAX_TOPICS.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from service.chat.sameness import Judge
from service.chat.spelling import spell

WINDOW_S = 60.0
BINS = 12  # of a curve
RECENT = 4  # bins; a rising topic is more frequent in these than in earlier ones
NEAREST = 4  # topics that are judged for a line
MAX_TOPICS = 1024
MAX_LINES = 20_000  # of a window; with more, the window is shorter
MAX_ROOMS = 64
SAID = 5  # of a topic, the commonest
LATEST, LATEST_LINES = 12, 200  # merged, of this many lines


@dataclass(frozen=True, slots=True)
class Topic:
    """A subject that lines within the window share."""

    id: int
    text: str  # its most frequent text
    count: int
    said: list[tuple[str, int]]  # by number, the commonest first; texts with the same meaning are merged
    curve: list[int]  # count in each of BINS parts of the window, the last is now
    rise: float  # how many times as frequent as before it is now; 1 is equally frequent
    first: float  # when it began, seconds


@dataclass(frozen=True, slots=True)
class Merged:
    """Lines within the window that mean the same."""

    text: str  # the commonest spelling
    count: int
    topic: int


@dataclass(slots=True)
class _Held:
    id: int
    text: str  # with which others are compared
    first: float
    last: float
    times: deque[float] = field(default_factory=deque)
    texts: Counter[str] = field(default_factory=Counter)
    same: dict[str, str] = field(default_factory=dict)  # by text, the representative of all that mean the same

    def merge(self) -> dict[str, tuple[str, int]]:
        """Returns the commonest spelling and the count of each meaning, by representative; opposites are separate."""
        texts: dict[str, Counter[str]] = {}
        for text, count in self.texts.items():
            texts.setdefault(self.same[text], Counter())[text] = count
        return {same: (counts.most_common(1)[0][0], counts.total()) for same, counts in texts.items()}


class Topics:
    """The topics of one room, for vectors of one model."""

    def __init__(self, judge: Judge, dim: int, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.now = float("-inf")  # the time of the last line
        self.changes = 0  # how often something was added
        self._judge = judge
        self._vectors = np.zeros((MAX_TOPICS, dim), np.float32)
        self._topics: list[_Held] = []  # a row of vectors each
        self._topic_of: dict[str, _Held] = {}  # by the texts of the window and of the topics
        self._lines: deque[tuple[float, str, _Held]] = deque()
        self._opened = 0

    def add(self, text: str, time: float, vector: np.ndarray) -> tuple[int, int]:
        """Adds a line with its vector [dim] of length 1, NaN for none; returns its topic and how often that occurred.

        A time before the last line's counts as the last line's; a time more than a window before it starts over.
        """
        if time < self.now - WINDOW_S:  # another clock: the next stream's, or after a wrong time
            self._topics, self._topic_of, self._lines, self.now = [], {}, deque(), time
        self.now = time = max(time, self.now)
        self.changes += 1
        self._forget()
        topic = self._topic_of.get(text)
        if topic is None:
            topic, is_same = self._find(text, vector) or (self._open(text, time, vector), True)
            self._topic_of[text] = topic
            topic.same[text] = spell(topic.text if is_same else text).folded
        topic.texts[text] += 1
        topic.times.append(time)
        topic.last = time
        self._lines.append((time, text, topic))
        return topic.id, len(topic.times)

    @property
    def lines(self) -> int:
        """The number of lines within the window."""
        self._forget()
        return len(self._lines)

    def list(self, most: int = 20) -> list[Topic]:
        """Returns topics with more than one line in the window, the largest first."""
        self._forget()
        topics = [topic for topic in self._topics if len(topic.times) > 1]
        topics.sort(key=lambda topic: (-len(topic.times), topic.id))
        return [self._describe(topic) for topic in topics[:most]]

    def latest(self) -> Sequence[Merged]:
        """Returns the latest texts, newest first; texts with the same meaning are merged."""
        self._forget()
        found = {(topic.id, topic.same[text]): topic for _, text, topic in islice(reversed(self._lines), LATEST_LINES)}
        merged = {topic.id: topic.merge() for topic in found.values()}
        return [Merged(*merged[number][same], number) for number, same in islice(found, LATEST)]

    def _find(self, text: str, vector: np.ndarray) -> tuple[_Held, bool] | None:
        """Returns the topic of a text that is not known yet, and whether it means the same as the topic's."""
        cosines = self._vectors[: len(self._topics)] @ vector
        best: tuple[bool, float, _Held] | None = None
        for row in np.argsort(-cosines, kind="stable")[:NEAREST]:
            topic = self._topics[row]
            relation = self._judge.judge(topic.text, text, float(cosines[row])).relation
            if relation == "unrelated" or (relation == "related" and not self._judge.uses_cosine):
                continue  # without a cosine, `related` means little more than that both are short
            found = (relation == "same", float(cosines[row]), topic)
            if best is None or found[:2] > best[:2]:
                best = found
        return (best[2], best[0]) if best else None

    def _open(self, text: str, time: float, vector: np.ndarray) -> _Held:
        if len(self._topics) == MAX_TOPICS:
            self._drop_smallest()
        self._opened += 1
        topic = _Held(self._opened, text, time, time)
        self._vectors[len(self._topics)] = np.nan_to_num(vector)
        self._topics.append(topic)
        return topic

    def _forget(self) -> None:
        """Forgets lines that have left the window."""
        while self._lines and (self._lines[0][0] <= self.now - WINDOW_S or len(self._lines) > MAX_LINES):
            _, text, topic = self._lines.popleft()
            topic.times.popleft()
            topic.texts[text] -= 1
            if not topic.texts[text]:
                del topic.texts[text]
                if text != topic.text:
                    del self._topic_of[text], topic.same[text]

    def _drop_smallest(self) -> None:
        """Makes room: removes a quarter of the topics, those with the fewest lines in the window, oldest first."""
        order = sorted(
            range(MAX_TOPICS), key=lambda row: (len(self._topics[row].times), self._topics[row].last), reverse=True
        )
        stay = sorted(order[: MAX_TOPICS - MAX_TOPICS // 4])
        staying = {self._topics[row].id for row in stay}
        self._vectors[: len(stay)] = self._vectors[stay]
        self._topics = [self._topics[row] for row in stay]
        self._lines = deque(line for line in self._lines if line[2].id in staying)
        self._topic_of = {text: topic for text, topic in self._topic_of.items() if topic.id in staying}

    def _describe(self, topic: _Held) -> Topic:
        curve = [0] * BINS
        for time in topic.times:
            curve[min(BINS - 1, max(0, int(BINS - (self.now - time) / WINDOW_S * BINS)))] += 1
        recent, before = sum(curve[-RECENT:]) / RECENT, sum(curve[:-RECENT]) / (BINS - RECENT)
        said = sorted(topic.merge().values(), key=lambda each: -each[1])[:SAID]
        rise = (recent + 1 / BINS) / (before + 1 / BINS)  # one more line on either side, so that nothing is infinite
        return Topic(topic.id, said[0][0], len(topic.times), said, curve, round(rise, 2), topic.first)


class Rooms:
    """The topics of the rooms that were observed last, at most MAX_ROOMS."""

    def __init__(self) -> None:
        self._rooms: OrderedDict[str, Topics] = OrderedDict()

    def open(self, name: str, judge: Judge, dim: int, fingerprint: str) -> Topics:
        """Returns the topics of a room; new ones if it is not known, or known with another model's vectors."""
        topics = self._rooms.get(name)
        if topics is None or topics.fingerprint != fingerprint:
            topics = self._rooms[name] = Topics(judge, dim, fingerprint)
        self._rooms.move_to_end(name)
        while len(self._rooms) > MAX_ROOMS:
            self._rooms.popitem(last=False)
        return topics

    def find(self, name: str) -> Topics | None:
        return self._rooms.get(name)

    def forget(self, name: str) -> None:
        self._rooms.pop(name, None)


def describe_topics(topics: Sequence[Topic]) -> list[dict[str, object]]:
    """Returns topics for JSON."""
    return [
        {
            "id": topic.id,
            "text": topic.text,
            "count": topic.count,
            "rise": topic.rise,
            "first": topic.first,
            "curve": topic.curve,
            "said": [{"text": text, "count": count} for text, count in topic.said],
        }
        for topic in topics
    ]
