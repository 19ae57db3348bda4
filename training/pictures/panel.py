"""The data of one panel of a picture, for every way of drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.pictures.readings import READINGS


@dataclass(frozen=True)
class Panel:
    """The words as one model sees them: `vectors` [n, dim] and `points` [n, 2]; rows of NaN for unknown words."""

    model: str
    texts: list[str]
    vectors: np.ndarray
    points: np.ndarray

    @property
    def indices(self) -> np.ndarray:
        """The indices of the words that have a point."""
        return np.flatnonzero(~np.isnan(self.points[:, 0]))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of READINGS, as indices of words that both have a point."""
        places = {self.texts[number]: int(number) for number in self.indices}
        return [(places[a], places[b]) for a, b in READINGS if a in places and b in places]
