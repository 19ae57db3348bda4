"""Metadata as numpy sees it: one column per field that filters ask for, so that a filter over a million items is a
comparison of arrays and not a million rows of a database.

A row holds a number, or a string or boolean as its code in a dictionary, or neither. `filters.matches` says what a
filter means; `evaluate` answers the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.stores.filters import And, Between, Filter, Not, OneOf, Or, filterable

NEITHER = -1


class Column:
    """Of one field; as long as the arrays of the rows it goes with."""

    def __init__(self, capacity: int) -> None:
        self.numbers = np.full(capacity, math.nan)
        self.codes = np.full(capacity, NEITHER, np.int32)
        self.code_of: dict[str | bool, int] = {}

    def set(self, position: int, value: Any) -> None:
        seen = filterable(value)
        self.numbers[position] = seen if isinstance(seen, float) else math.nan
        # No string equals a boolean, so one dictionary does for both.
        if isinstance(seen, str | bool):
            self.codes[position] = self.code_of.setdefault(seen, len(self.code_of))
        else:
            self.codes[position] = NEITHER

    def taken(self, positions: np.ndarray, capacity: int) -> Column:
        """The column of those rows, with room for more."""
        column = Column(capacity)
        column.numbers[: len(positions)] = self.numbers[positions]
        column.codes[: len(positions)] = self.codes[positions]
        column.code_of = dict(self.code_of)
        return column


def fields_of(filter: Filter) -> set[str]:
    match filter:
        case OneOf(field) | Between(field):
            return {field}
        case And(parts) | Or(parts):
            return set().union(*map(fields_of, parts))
        case Not(part):
            return fields_of(part)


def evaluate(filter: Filter, columns: Mapping[str, Column], rows: np.ndarray | slice, count: int) -> np.ndarray:
    """Which of those `count` rows the filter keeps: bool [count]."""
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
            numbers_there = columns[field].numbers[rows]  # comparisons with NaN are false
            kept = np.ones(count, bool)
            if filter.gt > -math.inf:
                kept &= numbers_there > filter.gt
            if filter.lt < math.inf:
                kept &= numbers_there < filter.lt
            return kept & (numbers_there >= filter.gte) & (numbers_there <= filter.lte)
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
