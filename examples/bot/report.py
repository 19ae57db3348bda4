"""Defines the bot's reports on a chat and on itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from danmaku_client import SimilarMatch, Topic

LATEST = 100_000  # lines, whose delays are kept


@dataclass(frozen=True)
class Report:
    """The topics of the chat at one moment."""

    at_s: float  # since the first line
    lines: int  # in the last minute
    topics: Sequence[Topic]
    watch: str | None
    copies: Sequence[SimilarMatch]  # its wordings, with counts, nearest first


@dataclass
class Counts:
    read: int = 0
    embedded: int = 0
    without_vector: int = 0  # blank lines, and lines that the vocabulary cannot spell
    delays_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))  # from arriving to being searchable

    @property
    def waiting(self) -> int:
        return self.read - self.embedded - self.without_vector

    def delay_ms(self, percent: float) -> float:
        return float(1000 * np.percentile(self.delays_s, percent)) if self.delays_s else 0.0


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
