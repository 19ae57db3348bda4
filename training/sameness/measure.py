"""Measures judgements of held-out pairs, beside the character rules that programs use today."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.chat.sameness import Judge
from service.chat.spelling import overlap, spell
from training.evaluation.intervals import Mean, bootstrap_auc, bootstrap_mean
from training.sameness.pairs import LabelledPair

BAG_DICE = 0.8  # of characters
COSINE = 0.9


@dataclass(frozen=True)
class Measured:
    """The results of one rule: means with intervals."""

    rule: str
    precision: Mean | None  # share of merged pairs that are the same; None if it merges nothing
    recall: Mean
    variants: Mean  # share of variants.tsv that it merges …
    opposites: Mean  # … and of opposites.tsv
    auc: Mean  # how often it scores a same pair above another pair


def measure(
    pairs: Sequence[LabelledPair],
    opposites: Sequence[LabelledPair],
    variants: Sequence[LabelledPair],
    cosines: np.ndarray,
    judges: Mapping[str, Judge],
) -> list[Measured]:
    """Measures rules and judges on the test halves; `cosines` are of all pairs, opposites and variants, in order."""
    parts = np.split(cosines, [len(pairs), len(pairs) + len(opposites)])
    tested = [
        [(pair, float(cosine)) for pair, cosine in zip(group, part, strict=True) if pair.split == "test"]
        for group, part in zip((pairs, opposites, variants), parts, strict=True)
    ]
    rules: dict[str, tuple[Callable[[LabelledPair, float], float], float]] = {
        "identical": (lambda pair, _: float(pair.first == pair.second), 1),
        "identical after folding": (lambda pair, _: float(_folded(pair.first) == _folded(pair.second)), 1),
        "containment": (lambda pair, _: _contains(pair), 1),
        f"bag of characters ≥ {BAG_DICE}": (_bag, BAG_DICE),
        "pinyin": (lambda pair, _: float(spell(pair.first).sounds == spell(pair.second).sounds), 1),
        f"cosine ≥ {COSINE}": (lambda _, cosine: cosine, COSINE),
    }
    for name, judge in judges.items():
        rules[f"{name} (≥ {judge.weights.same_at})"] = (_scored_by(judge), judge.weights.same_at)
    return [_measure(name, score, threshold, *tested) for name, (score, threshold) in rules.items()]


def _measure(
    name: str,
    score: Callable[[LabelledPair, float], float],
    threshold: float,
    pairs: Sequence[tuple[LabelledPair, float]],
    opposites: Sequence[tuple[LabelledPair, float]],
    variants: Sequence[tuple[LabelledPair, float]],
) -> Measured:
    scores = np.array([score(*pair) for pair in pairs])
    is_same = np.array([pair.relation == "same" for pair, _ in pairs])
    merged = scores >= threshold
    on_variants, on_opposites = (
        bootstrap_mean(np.array([score(*pair) >= threshold for pair in group], float))
        for group in (variants, opposites)
    )
    return Measured(
        name,
        bootstrap_mean(is_same[merged].astype(float)) if merged.any() else None,
        bootstrap_mean(merged[is_same].astype(float)),
        on_variants,
        on_opposites,
        bootstrap_auc(scores[is_same], scores[~is_same]),
    )


def measure_related(pairs: Sequence[LabelledPair], cosines: np.ndarray, judge: Judge) -> Mean:
    """Returns the share of pairs, with `cosines` [n], that are called related or same."""
    relations = [
        judge.judge(pair.first, pair.second, float(c)).relation for pair, c in zip(pairs, cosines, strict=True)
    ]
    return bootstrap_mean(np.array([relation != "unrelated" for relation in relations], float))


def format_measured(measured: Sequence[Measured]) -> str:
    """Returns a Markdown table."""
    rows = [
        "| rule | merges rightly | of the same, merges | of variants | of opposites | area under the curve |",
        "|---|---|---|---|---|---|",
    ]
    for each in measured:
        cells = [_percent(each.precision), *map(_percent, (each.recall, each.variants, each.opposites))]
        rows.append(
            f"| {each.rule} | {' | '.join(cells)} | {each.auc.value:.3f} ({each.auc.low:.3f}–{each.auc.high:.3f}) |"
        )
    return "\n".join(rows) + "\n"


def format_related(shares: Mapping[str, Mean]) -> str:
    """Returns a Markdown table."""
    cells = [_percent(share) for share in shares.values()]
    return "\n".join(
        (
            f"| of | {' | '.join(shares)} |",
            "|---" * (1 + len(cells)) + "|",
            f"| called related or the same | {' | '.join(cells)} |\n",
        )
    )


def _percent(mean: Mean | None) -> str:
    return "–" if mean is None else f"{mean.value:.1%} ({mean.low:.0%}–{mean.high:.0%})"


def _folded(text: str) -> str:
    return spell(text).folded


def _contains(pair: LabelledPair) -> float:
    one, other = _folded(pair.first), _folded(pair.second)
    return float(one in other or other in one)


def _bag(pair: LabelledPair, _: float) -> float:
    return overlap(spell(pair.first).bag, spell(pair.second).bag)


def _scored_by(judge: Judge) -> Callable[[LabelledPair, float], float]:
    return lambda pair, cosine: judge.judge(pair.first, pair.second, cosine if cosine else math.nan).probability
