"""Translates filters for Redis: the attributes stored with a vector, and the expression that a search evaluates.

Redis skips an item that lacks any field named in an expression, wherever the field stands. It treats `3` and `"3"` as
equal, and its strings have no escapes. So each field of an item is stored as a token, a hash of name, type and value,
in a list that every item has: `"token" in .t` is always true or false, and no text of a filter becomes part of an
expression. Tokens of integers are exact. Numbers are stored a second time, for bounds, as the float64 that Redis
compares.

An expression never excludes an item that its filter matches. It may match more where bounds stand inside `or` or `not`,
since an item may lack the number, and where a bound is beyond 2^53, so the items found are checked against the filter
itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import orjson

from service.stores.filters import And, Between, Filter, Not, OneOf, Or, Value, filterable, is_number

NEVER = 1e15  # when items without an end expire, Unix time: millions of years ahead
EXACT = 2.0**53  # below, every integer is a float64
MAX_DIGITS = 200  # of a number in an expression: Redis refuses 256


def build_attributes(metadata: Mapping[str, Any], expires_at: float | None) -> bytes:
    fields = {field: value for field, raw in metadata.items() if (value := filterable(raw)) is not None}
    numbers = {_number_key(field): float(value) for field, value in fields.items() if is_number(value)}
    tokens = [_token(field, value) for field, value in fields.items()]
    return orjson.dumps({"t": tokens, "e": NEVER if expires_at is None else expires_at} | numbers)


def build_expression(condition: Filter | None, now: float) -> str:
    """Returns an expression that is true of every unexpired item that the filter matches."""
    parts = (_write_bounds(part) if isinstance(part, Between) else _write_total(part) for part in _flatten(condition))
    return " and ".join([f".e > {now:.6f}", *(part for part in parts if part)])


def _flatten(condition: Filter | None) -> list[Filter]:
    """Returns the conditions that must all match for the filter to match."""
    if isinstance(condition, And):
        return [inner for part in condition.parts for inner in _flatten(part)]
    return [] if condition is None else [condition]


def _write_bounds(condition: Between) -> str:
    """Returns the bounds that Redis can read. It skips items without the number, as the filter does."""
    bounds = (
        (">", float(condition.gt)),
        ("<", float(condition.lt)),
        (">=", float(condition.gte)),
        ("<=", float(condition.lte)),
    )
    exact = ((sign if abs(bound) < EXACT else f"{sign[0]}=", bound) for sign, bound in bounds if math.isfinite(bound))
    written = ((sign, f"{Decimal(repr(bound)):f}") for sign, bound in exact)
    number = _number_key(condition.field)
    return " and ".join(f".{number} {sign} {digits}" for sign, digits in written if len(digits) < MAX_DIGITS)


def _write_total(condition: Filter) -> str | None:
    """Returns an expression that agrees with the filter on every item, whatever fields it lacks; None if impossible."""
    match condition:
        case OneOf(field, values):
            return _join("or", [f'"{_token(field, value)}" in .t' for value in values])
        case And(parts) | Or(parts):
            written = [each for part in parts if (each := _write_total(part)) is not None]
            return _join("and" if isinstance(condition, And) else "or", written) if len(written) == len(parts) else None
        case Not(part):
            return None if (inner := _write_total(part)) is None else f"not ({inner})"
        case Between():
            return None


def _join(word: str, parts: list[str]) -> str:
    if not parts:
        return "1" if word == "and" else "0"
    return "(" + f" {word} ".join(parts) + ")"


def _token(field: str, value: Value) -> str:
    """Returns the token of a field's value. Equal numbers share one: 3 and 3.0, 0.0 and -0.0."""
    if is_number(value) and value == float(value):  # Python compares the two exactly
        value = float(value) + 0.0
    literal = repr(value)
    return _hash(f"{len(field)}:{field}{literal}")


def _number_key(field: str) -> str:
    return "n" + _hash(field)


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
