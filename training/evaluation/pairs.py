"""Pairs of danmaku: synonyms, variants (one danmaku spelled in two ways) and opposites.

Synonyms and variants are judged by rank: where does one rank from the other, among the 1,000 commonest danmaku? For
`可爱` and `卡哇伊`, `可爱啊` is not a wrong answer, so variants of either can be left out of the 1,000. Opposites are
judged by cosine: a bot that merges near danmaku needs one threshold that merges variants but not opposites.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.tokenizer import Tokenizer
from training.alignment.timed_lines import kind_of
from training.evaluation.intervals import RESAMPLES, SEED, Mean, bootstrap_auc, percentile_interval

SYNONYMS, VARIANTS, OPPOSITES, SYNONYMS_2020 = (
    Path(__file__).with_name(f"{name}.tsv") for name in ("synonyms", "variants", "opposites", "synonyms-2020")
)
SPLITS = ("dev", "test")
LONGER_VARIANT = 2  # at most this many times as long as the other
KEPT_VARIANTS = 0.8  # share of the variants that the threshold keeps


@dataclass(frozen=True)
class Pair:
    """Two danmaku in the model's normal form."""

    first: str
    second: str
    kind: str
    split: str = ""  # of opposites: `dev` or `test`

    @property
    def shares_a_character(self) -> bool:
        return bool(set(self.first) & set(self.second) - {" "})


@dataclass(frozen=True)
class Opposites:
    """How well opposites are separated from pairs that may be merged."""

    against_variants: Mean  # area under the ROC curve: how often a variant is nearer than an opposite
    against_synonyms: Mean
    false_merges: Mean  # share of the opposites at or above the threshold that keeps 80 % of the variants
    threshold: float
    mean_cosine: float
    against_variants_by_kind: dict[str, float]


def read_pairs(path: Path, tokenizer: Tokenizer) -> list[Pair]:
    """Reads lines of `one, other, kind`, and for opposites `split`, separated by tabs; # begins a comment.

    Raises ValueError for other lines.
    """
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        one, other, kind, *split = line.split("\t") if line.count("\t") >= 2 else ("", "", "", "")
        if not one or not other or len(split) > 1 or (split and split[0] not in SPLITS):
            raise ValueError(
                f"invalid {path}, line {number}: {line!r}; expected one, other and kind, separated by tabs, "
                f"and for opposites {' or '.join(SPLITS)}"
            )
        pairs.append(Pair(tokenizer.normalize(one), tokenizer.normalize(other), kind, *split))
    return pairs


def fold(text: str) -> str:
    """Returns the text in one width and case, without marks, spaces and repeats."""
    return kind_of(unicodedata.normalize("NFKC", text).casefold())


def are_variants(one: str, other: str) -> bool:
    """Says whether two folded texts are equal, or one contains the other and is at most twice as long."""
    short, long = sorted((one, other), key=len)
    return one == other or (short in long and len(long) <= LONGER_VARIANT * len(short))


def judge_opposites(opposites: np.ndarray, kinds: list[str], variants: np.ndarray, synonyms: np.ndarray) -> Opposites:
    """Compares the cosines of opposites [o], of the given kinds [o], with those of variants [v] and synonyms [s]."""
    rng = np.random.default_rng(SEED)
    merges = np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        draws = rng.choice(opposites, len(opposites)), rng.choice(variants, len(variants))
        merges[resample] = (draws[0] >= find_threshold(draws[1])).mean()
    threshold = find_threshold(variants)
    by_kind = {kind: opposites[[other == kind for other in kinds]] for kind in dict.fromkeys(kinds)}
    return Opposites(
        against_variants=bootstrap_auc(variants, opposites),
        against_synonyms=bootstrap_auc(synonyms, opposites),
        false_merges=percentile_interval(float((opposites >= threshold).mean()), merges, len(opposites)),
        threshold=threshold,
        mean_cosine=float(opposites.mean()),
        against_variants_by_kind={kind: bootstrap_auc(variants, cosines).value for kind, cosines in by_kind.items()},
    )


def find_threshold(variants: np.ndarray) -> float:
    """Returns the largest threshold that keeps 80 % of the variants at or above it."""
    return float(np.quantile(variants, 1 - KEPT_VARIANTS, method="lower"))
