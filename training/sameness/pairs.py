"""Reads labelled pairs: sameness.tsv, and the pairs of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.evaluation.pairs import OPPOSITES, SPLITS, SYNONYMS, VARIANTS

SAMENESS = Path(__file__).with_name("sameness.tsv")
RELATIONS = ("same", "related", "unrelated")


@dataclass(frozen=True)
class LabelledPair:
    first: str
    second: str
    relation: str
    kind: str
    split: str


def read_labelled_pairs(path: Path = SAMENESS) -> list[LabelledPair]:
    """Reads lines of `one, other, relation, kind, split`, separated by tabs. Raises ValueError for other lines."""
    pairs = [LabelledPair(*fields) for fields in _read_fields(path, 5)]
    for pair in pairs:
        if pair.relation not in RELATIONS or pair.split not in SPLITS:
            raise ValueError(
                f"{path}: invalid pair {pair.first} – {pair.second}: {pair.relation}, {pair.split}; "
                f"expected a relation of {', '.join(RELATIONS)} and a split of {', '.join(SPLITS)}"
            )
    return pairs


def read_opposites(path: Path = OPPOSITES) -> list[LabelledPair]:
    return [LabelledPair(one, other, "related", kind, split) for one, other, kind, split in _read_fields(path, 4)]


def read_variants(path: Path = VARIANTS) -> list[LabelledPair]:
    """Reads pairs that are the same and used only for evaluation."""
    return [LabelledPair(one, other, "same", kind, "test") for one, other, kind in _read_fields(path, 3)]


def read_synonyms(path: Path = SYNONYMS) -> list[LabelledPair]:
    """Reads pairs that mostly share no character."""
    return [LabelledPair(one, other, "related", kind, "dev") for one, other, kind in _read_fields(path, 3)]


def _read_fields(path: Path, count: int) -> list[list[str]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != count:
            raise ValueError(f"{path}, line {number}: {len(fields)} fields; expected {count}, separated by tabs")
        rows.append(fields)
    return rows
