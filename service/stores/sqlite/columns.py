"""Metadata as numpy arrays: one column per filtered field. A filter over a million items compares arrays instead of
reading a million database rows.

A column holds for each row a number, or the code of a string or boolean, or neither. `filters.matches` defines what a
filter means; `evaluate` gives the same answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.stores.filters import And, Between, Filter, Not, OneOf, Or, filterable

NEITHER = -1


class Column:
    """The values of one field, as long as the row arrays that it belongs to."""

    def __init__(self, capacity: int) -> None:
        self.numbers = np.full(capacity, math.nan)
        self.codes = np.full(capacity, NEITHER, np.int32)
        self.code_of: dict[str | bool, int] = {}

    def set(self, position: int, value: Any) -> None:
        value = filterable(value)
        self.numbers[position] = value if isinstance(value, float) else math.nan
        # No string equals a boolean, so both share one dictionary.
        if isinstance(value, str | bool):
            self.codes[position] = self.code_of.setdefault(value, len(self.code_of))
        else:
            self.codes[position] = NEITHER

    def select(self, positions: np.ndarray, capacity: int) -> Column:
        """Copies the values at these positions into a new column of `capacity` rows."""
        column = Column(capacity)
        column.numbers[: len(positions)] = self.numbers[positions]
        column.codes[: len(positions)] = self.codes[positions]
        column.code_of = dict(self.code_of)
        return column


def list_fields(filter: Filter) -> set[str]:
    """Returns every metadata field that the filter names."""
    match filter:
        case OneOf(field) | Between(field):
            return {field}
        case And(parts) | Or(parts):
            return set().union(*map(list_fields, parts))
        case Not(part):
            return list_fields(part)


def evaluate(filter: Filter, columns: Mapping[str, Column], rows: np.ndarray | slice, count: int) -> np.ndarray:
    """Returns which of the `count` rows the filter matches: bool [count]."""
    match filter:
        case OneOf(field, values):
            column = columns[field]
            numbers = [value for value in values if isinstance(value, float)]
            coded = [value for value in values if not isinstance(value, float)]
            codes = [column.code_of[value] for value in coded if value in column.code_of]
            kept = _is_in(column.numbers[rows], numbers)
            kept |= _is_in(column.codes[rows], codes)
            return kept
        case Between(field):
            present = columns[field].numbers[rows]  # comparing with NaN is false
            kept = np.ones(count, bool)
            if filter.gt > -math.inf:
                kept &= present > filter.gt
            if filter.lt < math.inf:
                kept &= present < filter.lt
            return kept & (present >= filter.gte) & (present <= filter.lte)
        case And(parts):
            kept = np.ones(count, bool)
            for part in parts:
                kept &= evaluate(part, columns, rows, count)
            return kept
        case Or(parts):
            kept = np.zeros(count, bool)
            for part in parts:
                kept |= evaluate(part, columns, rows, count)
            return kept
        case Not(part):
            kept = evaluate(part, columns, rows, count)
            np.logical_not(kept, out=kept)
            return kept


def _is_in(values: np.ndarray, wanted: list[Any]) -> np.ndarray:
    if len(wanted) == 1:
        return np.asarray(values == wanted[0])
    return np.isin(values, np.array(wanted, values.dtype)) if wanted else np.zeros(len(values), bool)
