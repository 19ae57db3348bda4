"""Measures how near pairs of related words are: the pairs that the original recipe read from its picture.

A reading is a pair's ranks by cosine among all words of the picture: the rank of the second word from the first, and
the reverse; 1 is the nearest. Unlike distances in a t-SNE picture, ranks do not depend on chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.pictures.vectors import Vectors

READINGS = (
    ("mea", "aqua"),
    ("阿夸", "mea"),
    ("山田赫敏", "阿夸"),
    ("爱小姐", "mea"),
    ("774", "mea"),
    ("猫宫", "爱酱"),
    ("爱酱", "ai"),
    ("yyut", "阿律"),
    ("homo", "yyut"),
    ("晚安", "88888"),
    ("夏色祭", "白上吹雪"),
    ("委员长", "彩虹社"),
)


@dataclass(frozen=True)
class Rank:
    """The ranks of a pair in one model."""

    forth: int  # the rank of the second from the first
    back: int  # the rank of the first from the second
    cosine: float


def similarities(values: np.ndarray) -> np.ndarray:
    """Returns the cosines of vectors [n, dim] with each other: [n, n]; NaN where there is no vector."""
    unit = values.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def rank(cosines: np.ndarray, first: int, second: int) -> Rank | None:
    """Returns the ranks of a pair; None if one word has no vector. Words without a vector are not counted."""
    if np.isnan(cosine := cosines[first, second]):
        return None

    def place(of: int, other: int) -> int:
        nearer = cosines[of] > cosines[of, other]  # NaN is not
        nearer[[of, other]] = False
        return 1 + int(nearer.sum())

    return Rank(place(first, second), place(second, first), float(cosine))


def read(texts: list[str], models: list[Vectors]) -> list[tuple[str, str, list[Rank | None]]]:
    """Returns the readings whose words are among the texts, each with its rank in every model."""
    cosines = [similarities(model.values) for model in models]
    places = {text: number for number, text in enumerate(texts)}
    return [
        (first, second, [rank(matrix, places[first], places[second]) for matrix in cosines])
        for first, second in READINGS
        if first in places and second in places
    ]


def format_table(texts: list[str], models: list[Vectors]) -> str:
    """Formats the readings as Markdown: a row per pair, `forth / back` per model, and the medians."""
    rows = read(texts, models)
    if not rows:
        return ""
    lines = [
        f"| which neighbour of {len(texts) - 1}, forth / back | {' | '.join(model.model for model in models)} |",
        "|---" * (len(models) + 1) + "|",
    ]
    for first, second, ranks in rows:
        cells = [f"{rank.forth} / {rank.back}" if rank else "no vector" for rank in ranks]
        lines.append(f"| {first}–{second} | {' | '.join(cells)} |")
    medians = []
    for model in range(len(models)):
        found = [rank for *_, ranks in rows if (rank := ranks[model])]
        medians.append(np.median([n for rank in found for n in (rank.forth, rank.back)]) if found else np.nan)
    lines.append(f"| median (of chance: {len(texts) / 2:g}) | {' | '.join(f'{median:g}' for median in medians)} |")
    return "\n".join(lines) + "\n"


def to_json(texts: list[str], models: list[Vectors]) -> dict[str, Any]:
    """Returns the readings as an object to be written as JSON."""
    return {
        "words": len(texts),
        "models": [model.model for model in models],
        "readings": [
            {
                "first": first,
                "second": second,
                "ranks": [
                    rank and {"forth": rank.forth, "back": rank.back, "cosine": round(rank.cosine, 4)} for rank in ranks
                ],
            }
            for first, second, ranks in read(texts, models)
        ],
    }


def format_neighbours(texts: list[str], model: Vectors, count: int) -> str:
    """Formats, as Markdown, the `count` nearest other words of each word, with their cosines."""
    cosines = similarities(model.values)
    np.fill_diagonal(cosines, np.nan)
    lines = [f"| word | its nearest of {len(texts) - 1}, by {model.model} |", "|---|---|"]
    for text, row in zip(texts, cosines, strict=True):
        known = np.flatnonzero(~np.isnan(row))
        nearest = known[np.argsort(-row[known], kind="stable")][:count]
        listed = ", ".join(f"{texts[number]} {row[number]:.2f}" for number in nearest)
        lines.append(f"| {text} | {listed or 'no vector'} |")
    return "\n".join(lines) + "\n"
