"""Judges whether two danmaku mean the same: a calibrated probability, a relation, and the reason.

Evidence is the cosine of the vectors, the characters, the sounds, and contrary evidence (`polarity`). A logistic
regression weights it; `danmaku-train sameness` learns the weights of a model from labelled pairs and writes them beside
it, as `sameness.json`. For a model without that file, the cosine is not used.

Two danmaku are the same if a viewer who reads one with ×2 has read both. They are related if they share a subject,
including opposites.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from operator import mul
from pathlib import Path
from typing import Any, Literal

from service.chat.polarity import find_conflict
from service.chat.spelling import DEGREES, Spelling, overlap, spell
from service.errors import ModelError

FILE = "sameness.json"
Relation = Literal["same", "related", "unrelated"]
Reason = Literal[
    "spelling", "sound", "meaning", "negation", "antonym", "number", "person", "question", "difference", "strangers"
]
# The evidence, in the order of the weights; all from 0 to 1, but the cosine from −1.
EVIDENCE = (
    "cosine",
    "cosine_squared",
    "spelling",
    "sound",
    "content",
    "characters",
    "bigrams",
    "sounds",
    "added",
    "replaced",
    "length",
    "opposed",
    "asks",
)
WITHOUT_COSINE = EVIDENCE[2:]
EQUALITIES = ("spelling", "sound", "content")


@dataclass(frozen=True)
class Weights:
    """Two logistic regressions over the evidence: for the same, and for related or the same."""

    same: Mapping[str, float]  # by the names of the evidence, and `bias`
    related: Mapping[str, float]
    same_at: float  # the probability from which two danmaku are the same …
    related_at: float  # … and from which they are related


@dataclass(frozen=True, slots=True)
class Judgement:
    probability: float  # that both mean the same
    relation: Relation
    reason: Reason


class Judge:
    """Judges pairs of danmaku by weights."""

    def __init__(self, weights: Weights, *, uses_cosine: bool) -> None:
        self.weights, self.uses_cosine = weights, uses_cosine
        names = EVIDENCE if uses_cosine else WITHOUT_COSINE
        self._same = tuple(weights.same[name] for name in names)
        self._related = tuple(weights.related[name] for name in names)

    def judge(self, first: str, second: str, cosine: float) -> Judgement:
        """Returns the judgement of two danmaku; `cosine` is that of their vectors, and NaN if one has none."""
        one, other = spell(first), spell(second)
        if one.text == other.text:
            return Judgement(1.0, "same", "spelling")
        values, reason = self._weigh(one, other, cosine)
        same = logistic(self.weights.same["bias"] + sum(map(mul, self._same, values)))
        if same >= self.weights.same_at:
            return Judgement(same, "same", reason if reason in ("spelling", "sound") else "meaning")
        related = logistic(self.weights.related["bias"] + sum(map(mul, self._related, values)))
        if related >= self.weights.related_at:
            return Judgement(same, "related", reason if reason not in ("spelling", "sound") else "difference")
        return Judgement(same, "unrelated", "strangers")

    def find_probability(self, one: Spelling, other: Spelling, cosine: float) -> float:
        """Returns only the probability, for spellings."""
        if one.text == other.text:
            return 1.0
        values, _ = self._weigh(one, other, cosine)
        return logistic(self.weights.same["bias"] + sum(map(mul, self._same, values)))

    def find_least_cosine(self, probability: float) -> float:
        """Returns a cosine below which danmaku cannot reach a probability, unless their spelling or sound is equal."""
        linear, squared = (self.weights.same[name] if self.uses_cosine else 0.0 for name in EVIDENCE[:2])
        if min(linear, squared) < 0:
            return -1.0
        others = self.weights.same["bias"]
        others += sum(max(self.weights.same[name], 0) for name in WITHOUT_COSINE if name not in EQUALITIES)
        cosines = [hundredth / 100 for hundredth in range(-100, 101)]
        too_low = [c for c in cosines if logistic(others + linear * c + squared * c * abs(c)) < probability]
        return max(too_low, default=-1.0)

    def _weigh(self, one: Spelling, other: Spelling, cosine: float) -> tuple[tuple[float, ...], Reason]:
        evidence, reason = weigh(one, other, 0.0 if math.isnan(cosine) else cosine)
        return evidence if self.uses_cosine else evidence[2:], reason


def weigh(one: Spelling, other: Spelling, cosine: float) -> tuple[tuple[float, ...], Reason]:
    """Returns the evidence about two danmaku, and the most notable part of it."""
    conflict = find_conflict(one, other)
    is_equal = one.folded == other.folded
    sounds_equal = one.sounds == other.sounds
    added, replaced = compare_ends(one.folded, other.folded)
    longest = max(len(one.folded), len(other.folded))
    evidence = (
        cosine,
        cosine * abs(cosine),
        float(is_equal),
        float(sounds_equal),
        float(one.content == other.content),
        overlap(one.bag, other.bag),
        overlap(one.bigrams, other.bigrams),
        overlap(one.sound_bag, other.sound_bag),
        added,
        replaced,
        min(longest, 20) / 20,
        float(conflict is not None and conflict != "question"),
        float(conflict == "question"),
    )
    if conflict:
        return evidence, conflict
    return evidence, "spelling" if is_equal else "sound" if sounds_equal else "difference"


def compare_ends(first: str, second: str) -> tuple[float, float]:
    """Returns which share of the longer text was added to the other, and which replaces another part.

    Common beginnings and ends are left out; degrees (太, 真, …) are not an addition.
    """
    start = 0
    shortest = min(len(first), len(second))
    while start < shortest and first[start] == second[start]:
        start += 1
    end = 0
    while end < shortest - start and first[-1 - end] == second[-1 - end]:
        end += 1
    middles = [text[start : len(text) - end] for text in (first, second)]
    few, many = sorted(len(DEGREES.sub("", middle + "x")) - 1 for middle in middles)
    longest = max(len(first), len(second), 1)
    return (0.0, many / longest) if few > 0 else (many / longest, 0.0)


def logistic(score: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, score))))


def open_judge(model_directory: Path | None) -> Judge:
    """Returns the judge for the model in a directory, or one without cosine. Raises ModelError for a damaged file."""
    path = model_directory / FILE if model_directory else None
    if path is None or not path.is_file():
        return Judge(read_weights(Path(__file__).with_name("without_vectors.json")), uses_cosine=False)
    return Judge(read_weights(path), uses_cosine=True)


def read_weights(path: Path) -> Weights:
    """Reads what `write_weights` wrote. Raises ModelError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = Weights(**{name: content[name] for name in Weights.__dataclass_fields__})
        Judge(weights, uses_cosine="cosine" in weights.same)
        return weights
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be used: {error!r}; expected what `danmaku-train sameness` writes") from None


def write_weights(path: Path, weights: Weights, **about: Any) -> None:
    """Writes weights, and in the same file what they were learned from."""
    path.write_text(json.dumps(asdict(weights) | about, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
