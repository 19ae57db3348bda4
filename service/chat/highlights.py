"""Finds the highlights of a recording: moments when viewers say something more often than at other times.

    lines ─▶ meanings (clusters of vectors) ─▶ count of each meaning in a window, copies discounted
                                                ─▶ surprise: how far it is above the room's own background ─▶ peaks

Greetings, farewells, thanks and bots need no list of words. A room's usual phrases are expected at any time, a flood of
minutes is expected while it lasts, and phrases that occur mainly at the beginning or the end of a recording count
little there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from service.chat.merging import Line, merge
from service.chat.sameness import Judge
from service.chat.spelling import spell
from service.errors import TooLarge

STEP_S = 2.0
WINDOW_S = 20.0  # in which viewers react to one moment
BACKGROUND_S = 300.0  # around a moment: a flood of minutes is the room's background
EDGE_S = 300.0  # of the beginning and the end, or EDGE_SHARE of a short recording
EDGE_SHARE = 0.05
APART_S = 60.0  # between peaks
LEAD_S = 8.0  # viewers write a few seconds after the event
LONGEST_S = 60.0  # on either side of a peak
MAX_S = 48 * 3600.0
MEANINGS = 96  # at most …
LINES_PER_MEANING = 15  # … and on average at least this many different texts each
SAMPLE = 4096  # texts that meanings are learned from
ROUNDS = 8  # of k-means
UNSEEN = 0.3  # lines in a window that are expected of any meaning
COPIED_CHARACTERS = 6  # of a text that two viewers do not write by chance
KIND_COSINE = 0.45  # cosine from which a line is of an example's kind
KIND_SHARE = 0.2  # of a peak's lines, or its kind is `other`
REPRESENTATIVES = 3


@dataclass(frozen=True)
class Kinds:
    """Examples of what peaks may be, with a vector each [n, dim] of length 1, NaN for none."""

    names: tuple[str, ...]
    vectors: np.ndarray


@dataclass(frozen=True, slots=True)
class Representative:
    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Peak:
    """A moment; times in seconds as the lines have them."""

    start: float  # of what viewers react to: LEAD_S before they begin
    end: float
    at: float
    score: float
    lines: int  # from start to end
    kind: str  # of kinds.tsv, or `other`
    representatives: list[Representative]


@dataclass(frozen=True)
class Highlights:
    start: float  # seconds of the first value of the curves
    curve: np.ndarray  # [steps] surprise in the window around each step
    density: np.ndarray  # [steps] lines in it
    peaks: list[Peak]  # the highest first


@cache
def read_kinds() -> tuple[tuple[str, str], ...]:
    """Returns pairs of a kind and an example."""
    rows = Path(__file__).with_name("kinds.tsv").read_text(encoding="utf-8").splitlines()
    return tuple((kind, text) for kind, text in (row.split("\t") for row in rows))


def find_highlights(
    lines: Sequence[Line], vectors: np.ndarray, judge: Judge, kinds: Kinds, *, most: int = 10
) -> Highlights:
    """Finds up to `most` highlights of lines in any order, with their vectors [n, dim] of length 1, NaN for none.

    Raises TooLarge for more than MAX_S from the first line to the last.
    """
    order = sorted(range(len(lines)), key=lambda index: (lines[index].time, lines[index].text, lines[index].id))
    lines, vectors = [lines[index] for index in order], np.nan_to_num(vectors[order])
    if not lines:
        return Highlights(0.0, np.zeros(0), np.zeros(0), [])
    start, span = lines[0].time, lines[-1].time - lines[0].time
    if span > MAX_S:
        raise TooLarge(f"too long: {span:.0f} s from the first line to the last; expected at most {MAX_S:.0f} s")
    steps = np.array([int((line.time - start) / STEP_S) for line in lines])
    meanings = _find_meanings(lines, vectors)
    weights = _discount_copies(lines)
    said = np.zeros((steps[-1] + 1, meanings.max() + 1))  # [steps, meanings]
    np.add.at(said, (steps, meanings), weights)
    surprise = _find_surprise(said)  # [steps, meanings]
    curve = surprise.sum(axis=1)
    density = _sum_around(np.bincount(steps, minlength=len(said))[:, None].astype(float), WINDOW_S)[:, 0]
    peaks = []
    for at in _find_maxima(curve, most):
        first, last = _find_ends(curve, at)
        inside = np.flatnonzero((steps >= first) & (steps <= last))
        worth = weights[inside] * (surprise[at] / np.maximum(_around(said, at), UNSEEN))[meanings[inside]]
        kind = _find_kind(vectors[inside], worth, kinds)
        chosen = [lines[index] for index in inside]
        representatives = _represent(chosen, vectors[inside], worth, judge)
        begins, ends = start + STEP_S * first - LEAD_S, start + STEP_S * (last + 1)
        peaks.append(
            Peak(max(start, begins), ends, start + STEP_S * at, float(curve[at]), len(inside), kind, representatives)
        )
    return Highlights(start, curve, density, peaks)


def _find_meanings(lines: Sequence[Line], vectors: np.ndarray) -> np.ndarray:
    """Returns the number of each line's meaning [n]: deterministic k-means of the vectors of distinct texts."""
    first = list({line.text: index for index, line in reversed(list(enumerate(lines)))}.values())[::-1]
    sample = vectors[first[:: max(1, -(-len(first) // SAMPLE))]]
    count = min(MEANINGS, 1 + len(sample) // LINES_PER_MEANING)
    centres = sample[:: len(sample) // count][:count]
    for _ in range(ROUNDS):
        nearest = (sample @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sample)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), centres)
    found: np.ndarray = (vectors @ centres.T).argmax(axis=1)
    return found


def _discount_copies(lines: Sequence[Line]) -> np.ndarray:
    """Returns the weight of each line [n]: less for each further copy of a text, above all of a long one."""
    weights = np.ones(len(lines))
    last: dict[str, float] = {}
    copies: Counter[str] = Counter()
    for index, line in enumerate(lines):
        if line.time - last.get(line.text, line.time) > WINDOW_S:
            copies[line.text] = 0
        copies[line.text] += 1
        last[line.text] = line.time
        length = min(1.0, len(spell(line.text).folded) / COPIED_CHARACTERS)
        weights[index] = copies[line.text] ** -length
    return weights


def _find_surprise(said: np.ndarray) -> np.ndarray:
    """Returns how far each meaning's count in the window around each step is above expectation, or 0.

    [steps, meanings] → the same: the deviance of Poisson, n log(n / expected) − (n − expected).
    """
    steps = len(said)
    window = min(steps, int(WINDOW_S / STEP_S))
    n = _sum_around(said, WINDOW_S)
    whole = said.sum(axis=0) * window / steps
    around = _sum_around(said, BACKGROUND_S, is_clamped=True) * window / min(steps, int(BACKGROUND_S / STEP_S))
    expected = np.maximum(np.maximum(whole, around), UNSEEN)
    surprise = np.where(n > expected, n * np.log(np.maximum(n, UNSEEN) / expected) - (n - expected), 0.0)
    edge = int(min(EDGE_S / STEP_S, EDGE_SHARE * steps))
    if edge:
        at_edges = said[:edge].sum(axis=0) + said[-edge:].sum(axis=0)
        elsewhere = np.clip(1 - at_edges / np.maximum(said.sum(axis=0), UNSEEN), 0, 1) ** 2  # [meanings]
        rise = np.arange(edge)[:, None] / edge
        surprise[:edge] *= rise * elsewhere
        surprise[-edge:] *= rise[::-1] * elsewhere
    return surprise


def _sum_around(values: np.ndarray, seconds: float, *, is_clamped: bool = False) -> np.ndarray:
    """Returns sums over the time around each step; with `is_clamped`, over equally much time at the edges."""
    steps, width = len(values), min(len(values), int(seconds / STEP_S))
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    first = np.arange(steps) - width // 2
    if is_clamped:
        first = np.clip(first, 0, steps - width)
    return np.asarray(sums[np.clip(first + width, 0, steps)] - sums[np.clip(first, 0, steps)])


def _around(said: np.ndarray, at: int) -> np.ndarray:
    width = min(len(said), int(WINDOW_S / STEP_S))
    return np.asarray(said[max(0, at - width // 2) : at - width // 2 + width].sum(axis=0))


def _find_maxima(curve: np.ndarray, most: int) -> list[int]:
    """Returns the steps of the highest values, APART_S apart."""
    rest = curve.copy()
    found: list[int] = []
    apart = int(APART_S / STEP_S)
    while len(found) < most and rest.max(initial=0) > 0:
        at = int(rest.argmax())
        is_top = curve[at] >= curve[max(0, at - 1) : at + 2].max()
        if is_top:
            found.append(at)
        rest[max(0, at - apart) if is_top else at : at + apart + 1 if is_top else at + 1] = 0
    return found


def _find_ends(curve: np.ndarray, at: int) -> tuple[int, int]:
    """Returns the first and last step around a peak that are above half of it."""
    first = last = at
    longest = int(LONGEST_S / STEP_S)
    while first > max(0, at - longest) and curve[first - 1] > curve[at] / 2:
        first -= 1
    while last < min(len(curve) - 1, at + longest) and curve[last + 1] > curve[at] / 2:
        last += 1
    return first, last


def _find_kind(vectors: np.ndarray, worth: np.ndarray, kinds: Kinds) -> str:
    cosines = vectors @ np.nan_to_num(kinds.vectors).T  # [lines, examples]
    nearest = cosines.argmax(axis=1)
    votes: Counter[str] = Counter()
    for line, example in enumerate(nearest):
        if cosines[line, example] >= KIND_COSINE:
            votes[kinds.names[example]] += float(worth[line])  # type: ignore[assignment]
    for name, vote in votes.most_common(1):
        if vote >= KIND_SHARE * worth.sum() > 0:
            return name
    return "other"


def _represent(lines: Sequence[Line], vectors: np.ndarray, worth: np.ndarray, judge: Judge) -> list[Representative]:
    """Returns the texts that contribute most to the peak, in their commonest spelling."""
    numbered = [Line(line.text, line.time, str(index)) for index, line in enumerate(lines)]
    groups = merge(numbered, vectors, judge, window_s=2 * LONGEST_S)
    groups.sort(key=lambda group: -sum(worth[int(line)] for line in group.ids))
    return [Representative(group.text, group.count) for group in groups[:REPRESENTATIVES]]
