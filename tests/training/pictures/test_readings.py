"""A reading is reported as ranks among all words, from the vectors themselves."""

from __future__ import annotations

import numpy as np

from training.pictures.readings import READINGS, Rank, format_neighbours, format_table, rank, similarities, to_json
from training.pictures.vectors import Vectors
from training.pictures.visualise import WORDS, read_words

TEXTS = ["mea", "aqua", "草", "晚安", "88888"]
# Angles in degrees: aqua is mea's second neighbour, mea is aqua's first.
ANGLES = np.radians([0, 20, -15, 80, 120])
VALUES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
MODELS = [Vectors("before", VALUES * 3), Vectors("after", VALUES[[0, 1, 2, 4, 3]])]


def test_a_rank_is_a_place_among_the_neighbours() -> None:
    """It counts from 1, in both directions, whatever the vectors' lengths."""
    cosines = similarities(VALUES * [[1], [2], [3], [4], [5]])
    assert rank(cosines, 0, 1) == Rank(2, 1, float(cosines[0, 1]))
    assert abs(cosines[0, 1] - np.cos(np.radians(20))) < 1e-12


def test_a_word_without_a_vector_has_no_rank_and_no_neighbours() -> None:
    values = VALUES.copy()
    values[2] = np.nan
    cosines = similarities(values)
    assert rank(cosines, 0, 2) is None
    found = rank(cosines, 0, 1)
    assert found is not None and (found.forth, found.back) == (1, 1)


def test_the_table_has_a_row_per_reading_whose_words_are_there() -> None:
    """Before is beside after, and their medians are beside what chance gives."""
    lines = format_table(TEXTS, MODELS).splitlines()
    assert lines[0] == "| which neighbour of 4, forth / back | before | after |"
    assert lines[2:4] == ["| mea–aqua | 2 / 1 | 2 / 1 |", "| 晚安–88888 | 1 / 1 | 1 / 1 |"]
    assert lines[4] == "| median (of chance: 2.5) | 1 | 1 |"
    assert format_table(["草", "晚安"], MODELS) == ""


def test_the_json_has_every_rank() -> None:
    found = to_json(TEXTS, MODELS)
    assert found["words"] == 5 and found["models"] == ["before", "after"]
    assert found["readings"][0]["first"] == "mea" and found["readings"][0]["ranks"][1]["forth"] == 2


def test_neighbours_are_listed_nearest_first() -> None:
    """A word without a vector has none and is in no list."""
    values = VALUES.copy()
    values[3] = np.nan
    lines = format_neighbours(TEXTS, Vectors("after", values), 2).splitlines()
    assert lines[0] == "| word | its nearest of 4, by after |"
    assert lines[2] == "| mea | 草 0.97, aqua 0.94 |"
    assert lines[5] == "| 晚安 | no vector |"


def test_every_reading_uses_bundled_words() -> None:
    """There are twelve pairs of the recipe's words."""
    words = read_words(WORDS)
    assert len(READINGS) == 12
    assert {word for pair in READINGS for word in pair} <= set(words)
