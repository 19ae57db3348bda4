"""Holds metadata as numpy arrays, one column per filtered field. A filter over a million items compares arrays
instead of reading a million database rows.

A column holds for each row a number, or the code of a string or boolean, or neither. `filters.matches` defines what a
filter means; `evaluate` gives the same answers.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from service.stores.filters import And, Between, Filter, Not, OneOf, Or, filterable, is_number

NEITHER = -1
STOP_EVERY_ROWS = 256


class Column:
    """The values of one field, as long as the row arrays that it belongs to."""

    def __init__(self, capacity: int) -> None:
        self.numbers = np.full(capacity, math.nan)
        # The part of an integer beyond 2^53 that float64 lacks, at most 1,024; None while no row has such an integer.
        self.rests: np.ndarray | None = None
        self.codes = np.full(capacity, NEITHER, np.int32)
        self.code_of: dict[str | bool, int] = {}
        self.next_code = 0

    def set(self, position: int, value: Any) -> None:
        value = filterable(value)
        number, rest = _split(value) if is_number(value) else (math.nan, 0)
        self.numbers[position] = number
        if rest and self.rests is None:
            self.rests = np.zeros(len(self.numbers), np.int16)
        if self.rests is not None:
            self.rests[position] = rest
        # No string equals a boolean, so both share one dictionary.
        if not isinstance(value, str | bool):
            self.codes[position] = NEITHER
            return
        if value not in self.code_of:
            self.code_of[value] = self.next_code
            self.next_code += 1
        self.codes[position] = self.code_of[value]

    def select(self, positions: np.ndarray, capacity: int) -> Column:
        """Copies the values at these positions into a new column of `capacity` rows."""
        column = Column(capacity)
        column.numbers[: len(positions)] = self.numbers[positions]
        if self.rests is not None:
            column.rests = np.zeros(capacity, np.int16)
            column.rests[: len(positions)] = self.rests[positions]
        column.codes[: len(positions)] = self.codes[positions]
        # Without values of deleted rows, which may all have been distinct.
        is_used = np.zeros(self.next_code, bool)
        is_used[column.codes[column.codes != NEITHER]] = True
        column.code_of = {value: code for value, code in self.code_of.items() if is_used[code]}
        column.next_code = self.next_code
        return column

    def scatter(self, sources: np.ndarray, positions: np.ndarray, capacity: int) -> Column:
        """Copies the values at `sources` to `positions` of a new column of `capacity` rows."""
        column = Column(capacity)
        column.numbers[positions] = self.numbers[sources]
        if self.rests is not None:
            column.rests = np.zeros(capacity, np.int16)
            column.rests[positions] = self.rests[sources]
        column.codes[positions] = self.codes[sources]
        column.code_of, column.next_code = dict(self.code_of), self.next_code
        return column


class ColumnBuild:
    """Columns of newly filtered fields, while they are read from the database, which changes meanwhile.

    `read` takes the rows from the database, in one thread; `changed` holds the values of rows that were
    written after the build began, and overrides them.
    """

    def __init__(self, fields: Iterable[str]) -> None:
        self.fields = sorted(fields)
        self.changed: dict[int, list[Any]] = {}  # by row number: the values of `fields`
        self._row_numbers = array("q")
        self._columns = [Column(0) for _ in self.fields]  # in the order in which rows are read

    def read(self, rows: Iterable[tuple[int, Mapping[str, Any]]], should_stop: Callable[[], bool]) -> bool:
        """Reads the number and metadata of every row; returns False if it was stopped."""
        capacity = 0
        for position, (number, metadata) in enumerate(rows):
            if position % STOP_EVERY_ROWS == 0 and should_stop():
                return False
            if position == capacity:
                capacity = max(1024, 2 * capacity)
                self._columns = [column.select(np.arange(position), capacity) for column in self._columns]
            self._row_numbers.append(number)
            for field, column in zip(self.fields, self._columns, strict=True):
                column.set(position, metadata.get(field))
        return True

    def record(self, number: int, metadata: Mapping[str, Any]) -> None:
        self.changed[number] = [metadata.get(field) for field in self.fields]

    def to_columns(
        self, locate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], capacity: int
    ) -> dict[str, Column]:
        """Returns the columns by field. `locate` returns which of some rows are present, and the positions of those."""
        is_present, positions = locate(np.array(self._row_numbers, np.int64))
        (sources,) = np.nonzero(is_present)
        is_changed_present, changed_positions = locate(np.array(list(self.changed), np.int64))
        changed = [values for values, present in zip(self.changed.values(), is_changed_present, strict=True) if present]
        columns = {}
        for index, field in enumerate(self.fields):
            column = columns[field] = self._columns[index].scatter(sources, positions, capacity)
            for position, values in zip(changed_positions.tolist(), changed, strict=True):
                column.set(position, values[index])
        return columns


def list_fields(condition: Filter) -> set[str]:
    """Returns every metadata field that the filter names."""
    match condition:
        case OneOf(field) | Between(field):
            return {field}
        case And(parts) | Or(parts):
            return set().union(*map(list_fields, parts))
        case Not(part):
            return list_fields(part)


def evaluate(condition: Filter, columns: Mapping[str, Column], rows: np.ndarray | slice, count: int) -> np.ndarray:
    """Returns which of the `count` rows the filter matches: bool [count]."""
    match condition:
        case OneOf(field, values):
            column = columns[field]
            numbers = [value for value in values if is_number(value)]
            coded = [value for value in values if isinstance(value, str | bool)]
            codes = [column.code_of[value] for value in coded if value in column.code_of]
            kept = _equals_one_of(column, rows, numbers)
            kept |= _is_in(column.codes[rows], codes)
            return kept
        case Between(field):
            column = columns[field]
            kept = np.logical_not(np.isnan(column.numbers[rows]))
            if condition.gt > -math.inf:
                kept &= _is_above(column, rows, condition.gt)
            if condition.lt < math.inf:
                kept &= ~_is_above(column, rows, condition.lt, or_equal=True)
            if condition.gte > -math.inf:
                kept &= _is_above(column, rows, condition.gte, or_equal=True)
            if condition.lte < math.inf:
                kept &= ~_is_above(column, rows, condition.lte)
            return np.asarray(kept)
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


def _split(number: int | float) -> tuple[float, int]:
    """Returns the nearest float64 and the remainder: numbers are ordered as these pairs are."""
    nearest = float(number)
    return nearest, number - int(nearest) if isinstance(number, int) else 0


def _equals_one_of(column: Column, rows: np.ndarray | slice, wanted: list[int | float]) -> np.ndarray:
    pairs = [_split(number) for number in wanted]
    kept = _is_in(column.numbers[rows], [number for number, _ in pairs])
    if column.rests is None and not any(rest for _, rest in pairs):
        return kept
    places = np.flatnonzero(kept)  # of few rows, usually: those that are equal as float64
    numbers = column.numbers[rows][places]
    rests = np.zeros(len(places), np.int16) if column.rests is None else column.rests[rows][places]
    is_equal = np.zeros(len(places), bool)
    for number, rest in pairs:
        is_equal |= (numbers == number) & (rests == rest)
    kept[places] = is_equal
    return kept


def _is_above(column: Column, rows: np.ndarray | slice, bound: int | float, *, or_equal: bool = False) -> np.ndarray:
    """Returns which numbers are above a bound; comparisons with NaN are false."""
    numbers = column.numbers[rows]
    nearest, rest = _split(bound)
    if column.rests is None and not rest:
        return np.asarray(numbers >= nearest if or_equal else numbers > nearest)
    rests = np.zeros(len(numbers), np.int16) if column.rests is None else column.rests[rows]
    return np.asarray((numbers > nearest) | ((numbers == nearest) & (rests >= rest if or_equal else rests > rest)))


def _is_in(values: np.ndarray, wanted: list[Any]) -> np.ndarray:
    if len(wanted) == 1:
        return np.asarray(values == wanted[0])
    return np.isin(values, np.array(wanted, values.dtype)) if wanted else np.zeros(len(values), bool)
