"""The filter language: selects items for a search or a removal by their metadata.

    {"room": 3}                              the field equals a string, number or boolean
    {"room": {"in": [3, 4]}}                 it equals one of the values
    {"seconds": {"gte": 10, "lt": 20}}       a number within bounds: gt, gte, lt, lte
    {"room": 3, "uploader": "aqua"}          both conditions hold
    {"and": [F, …]}  {"or": [F, …]}  {"not": F}

A field that an item lacks, or whose value has another type, matches nothing, so `not` of it matches. Booleans are not
numbers. Integers of up to 64 bits are compared exactly, as danmaku ids require, other numbers as float64. `{}` matches
everything. `parse` turns JSON into a tree; `matches` defines its meaning, and every store must give the same answers
however it evaluates the tree. Fields are the top-level keys of the metadata; `and`, `or` and `not` cannot be field
names.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from service.errors import InvalidRequest

MAX_DEPTH = 16
MAX_CONDITIONS = 256  # values in one filter, and objects: each may be compared with every item
MAX_FIELDS = 16  # the first filter over a field reads it from every item
QUOTE = reprlib.Repr()
QUOTE.maxstring = QUOTE.maxother = MAX_QUOTE = 60

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # the integers that JSON is stored with

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class OneOf:
    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Between:
    field: str
    gt: int | float = -math.inf  # the bounds themselves do not match …
    lt: int | float = math.inf
    gte: int | float = -math.inf  # … these do
    lte: int | float = math.inf


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


Filter = OneOf | Between | And | Or | Not


def matches(condition: Filter, metadata: Mapping[str, Any]) -> bool:
    """Returns whether the filter selects an item with this metadata."""
    match condition:
        case OneOf(field, values):
            value = filterable(metadata.get(field))
            return value is not None and any(_kind(value) is _kind(each) and value == each for each in values)
        case Between(field):
            value = filterable(metadata.get(field))
            return is_number(value) and condition.gt < value < condition.lt and condition.gte <= value <= condition.lte
        case And(parts):
            return all(matches(part, metadata) for part in parts)
        case Or(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)


def filterable(value: Any) -> Value | None:
    """Returns a metadata value as filters compare it, or None if they ignore it."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if MIN_INTEGER <= value <= MAX_INTEGER else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Returns whether filters compare the value as a number: a boolean is not one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Value) -> type:
    return float if is_number(value) else type(value)


def parse(source: Any) -> Filter:
    """Parses JSON into a filter. Raises InvalidRequest, which says where it is wrong and what is expected."""
    conditions = objects = 0
    fields: set[str] = set()

    def node(source: Any, place: str, depth: int) -> Filter:
        nonlocal objects
        objects += 1
        if objects > MAX_CONDITIONS:
            raise InvalidRequest(f"{place}: more than {MAX_CONDITIONS} objects in one filter")
        if not isinstance(source, dict):
            raise InvalidRequest(f'{place}: expected an object such as {{"room": 3}}, not {_quote(source)}')
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"{place}: more than {MAX_DEPTH} levels of and, or, not")
        parts = tuple(part(key, value, f"{place}.{key[:MAX_QUOTE]}", depth + 1) for key, value in source.items())
        return parts[0] if len(parts) == 1 else And(parts)

    def part(key: str, value: Any, place: str, depth: int) -> Filter:
        if key == "not":
            return Not(node(value, place, depth))
        if key in ("and", "or"):
            if not isinstance(value, list) or not value:
                raise InvalidRequest(f"{place}: expected a list of filters, not {_quote(value)}")
            nodes = tuple(node(each, f"{place}[{index}]", depth) for index, each in enumerate(value))
            return And(nodes) if key == "and" else Or(nodes)
        return condition(key, value, place)

    def condition(field: str, value: Any, place: str) -> Filter:
        nonlocal conditions
        values = value["in"] if isinstance(value, dict) and list(value) == ["in"] else [value]
        conditions += max(1, len(values)) if isinstance(values, list) else 1
        if conditions > MAX_CONDITIONS:
            raise InvalidRequest(f"{place}: more than {MAX_CONDITIONS} values in one filter")
        fields.add(field)
        if len(fields) > MAX_FIELDS:
            raise InvalidRequest(f"{place}: more than {MAX_FIELDS} different fields in one filter")
        if not isinstance(value, dict):
            return OneOf(field, (_value(value, place),))
        if list(value) == ["in"]:
            if not isinstance(values, list):
                raise InvalidRequest(f"{place}.in: expected a list of values, not {_quote(values)}")
            return OneOf(field, tuple(_value(each, f"{place}.in[{index}]") for index, each in enumerate(values)))
        if value and value.keys() <= {"gt", "gte", "lt", "lte"}:
            return Between(field, **{bound: _number(number, f"{place}.{bound}") for bound, number in value.items()})
        raise InvalidRequest(
            f'{place}: expected a value, {{"in": […]}}, or bounds of gt, gte, lt, lte, not {_quote(value)}'
        )

    return node(source, "filter", 0)


def _value(source: Any, place: str) -> Value:
    if (value := filterable(source)) is None:
        raise InvalidRequest(
            f"{place}: expected a string, a number or a boolean, not {_quote(source)}{_explain_size(source)}"
        )
    return value


def _explain_size(source: Any) -> str:
    is_integer = isinstance(source, int) and not isinstance(source, bool)
    return "; integers of more than 64 bits are kept as strings" if is_integer else ""


def _number(source: Any, place: str) -> int | float:
    value = filterable(source)
    if not is_number(value):
        raise InvalidRequest(f"{place}: expected a number, not {_quote(source)}")
    return value


def _quote(source: Any) -> str:
    if source is None:
        return "null"
    text = QUOTE.repr(source)
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}…"
