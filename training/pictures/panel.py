"""What one model makes of the words: the data of a picture, which the drawings share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.pictures.readings import READINGS


@dataclass(frozen=True)
class Panel:
    """What one model makes of the words: [n, dim] and [n, 2], rows of NaN where it knows nothing of a word."""

    model: str
    texts: list[str]
    vectors: np.ndarray
    points: np.ndarray

    @property
    def drawn(self) -> np.ndarray:
        """The numbers of the words that have a place."""
        return np.flatnonzero(~np.isnan(self.points[:, 0]))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The recipe's readings, as numbers of words that both have a place."""
        places = {self.texts[number]: int(number) for number in self.drawn}
        return [(places[a], places[b]) for a, b in READINGS if a in places and b in places]
