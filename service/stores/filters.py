"""The filter language: which items a search or a removal is about, told from their metadata.

    {"room": 3}                              the field equals a string, number or boolean
    {"room": {"in": [3, 4]}}                 it equals one of them
    {"seconds": {"gte": 10, "lt": 20}}       a number between bounds: gt, gte, lt, lte
    {"room": 3, "uploader": "aqua"}          both
    {"and": [F, …]}  {"or": [F, …]}  {"not": F}

A field that an item lacks, or that holds something of another type, matches nothing, so that `not` of it matches. A
boolean is no number, and numbers are compared as float64. `{}` matches everything. `parse` makes a tree of what came as
JSON; `matches` says what it means, and every store has to answer alike, however it evaluates the tree. Fields are those
at the top of the metadata, and none can be called and, or, not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidRequest

MAX_DEPTH = 16
MAX_CONDITIONS = 256  # fields and values of a whole filter: each may be looked for in every item

Value = str | float | bool  # numbers are float64


@dataclass(frozen=True, slots=True)
class OneOf:
    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Between:
    field: str
    gt: float = -math.inf  # the bounds themselves do not match …
    lt: float = math.inf
    gte: float = -math.inf  # … these do
    lte: float = math.inf


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


def matches(filter: Filter, metadata: Mapping[str, Any]) -> bool:
    """Whether an item with that metadata is one of those meant."""
    match filter:
        case OneOf(field, values):
            value = filterable(metadata.get(field))
            return value is not None and any(type(value) is type(other) and value == other for other in values)
        case Between(field):
            value = filterable(metadata.get(field))
            return isinstance(value, float) and filter.gt < value < filter.lt and filter.gte <= value <= filter.lte
        case And(parts):
            return all(matches(part, metadata) for part in parts)
        case Or(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)


def filterable(value: Any) -> Value | None:
    """A metadata value as filters see it; None: they see nothing."""
    if isinstance(value, str | bool):
        return value
    return float(value) if isinstance(value, int | float) and abs(value) <= sys.float_info.max else None


def parse(source: Any) -> Filter:
    """The filter that JSON describes. Raises InvalidRequest, which says where it is none and what would be one."""
    conditions = 0

    def node(source: Any, place: str, depth: int) -> Filter:
        if not isinstance(source, dict):
            raise InvalidRequest(f'{place}: expected an object such as {{"room": 3}}, not {_shown(source)}')
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"{place}: more than {MAX_DEPTH} levels of and, or, not")
        parts = tuple(part(key, value, f"{place}.{key}", depth + 1) for key, value in source.items())
        return parts[0] if len(parts) == 1 else And(parts)

    def part(key: str, value: Any, place: str, depth: int) -> Filter:
        if key == "not":
            return Not(node(value, place, depth))
        if key in ("and", "or"):
            if not isinstance(value, list) or not value:
                raise InvalidRequest(f"{place}: expected a list of filters, not {_shown(value)}")
            nodes = tuple(node(each, f"{place}[{index}]", depth) for index, each in enumerate(value))
            return And(nodes) if key == "and" else Or(nodes)
        return condition(key, value, place)

    def condition(field: str, value: Any, place: str) -> Filter:
        nonlocal conditions
        values = value["in"] if isinstance(value, dict) and list(value) == ["in"] else [value]
        conditions += max(1, len(values)) if isinstance(values, list) else 1
        if conditions > MAX_CONDITIONS:
            raise InvalidRequest(f"{place}: more than {MAX_CONDITIONS} values in one filter")
        if not isinstance(value, dict):
            return OneOf(field, (_value(value, place),))
        if list(value) == ["in"]:
            if not isinstance(values, list):
                raise InvalidRequest(f"{place}.in: expected a list of values, not {_shown(values)}")
            return OneOf(field, tuple(_value(each, f"{place}.in[{index}]") for index, each in enumerate(values)))
        if value and value.keys() <= {"gt", "gte", "lt", "lte"}:
            return Between(field, **{bound: _number(number, f"{place}.{bound}") for bound, number in value.items()})
        raise InvalidRequest(
            f'{place}: expected a value, {{"in": […]}}, or bounds of gt, gte, lt, lte, not {_shown(value)}'
        )

    return node(source, "filter", 0)


def _value(source: Any, place: str) -> Value:
    if (value := filterable(source)) is None:
        raise InvalidRequest(f"{place}: expected a string, a number or a boolean, not {_shown(source)}")
    return value


def _number(source: Any, place: str) -> float:
    value = filterable(source)
    if not isinstance(value, float):
        raise InvalidRequest(f"{place}: expected a number, not {_shown(source)}")
    return value


def _shown(source: Any) -> str:
    if source is None:
        return "null"
    shown = repr(source)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
