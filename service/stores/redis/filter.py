"""Filters in Redis' words: what is written beside a vector (`attributes`) and what a search asks of it (`expression`).

Redis skips an item that lacks any field an expression names, whatever stands around it, takes `3` and `"3"` for equal,
and knows no escapes in strings. So an item's fields are written as tokens, a hash of name, type and value each, in one
list that every item has: `"token" in .t` is true or false, never missing, and nothing of a filter's text becomes part
of an expression. Numbers are there a second time, for bounds.

An expression is never narrower than its filter. It is wider where bounds stand inside `or` or `not`, since an item may
lack the number: so what a search found is held against the filter itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import orjson

from service.stores.filters import And, Between, Filter, Not, OneOf, Or, Value, filterable

NEVER = 1e15  # the end of what has none, as Unix time: millions of years ahead
MAX_DIGITS = 200  # of a number in an expression: Redis refuses 256


def attributes(metadata: Mapping[str, Any], expires_at: float | None) -> bytes:
    fields = {field: value for field, raw in metadata.items() if (value := filterable(raw)) is not None}
    numbers = {_number(field): value for field, value in fields.items() if isinstance(value, float)}
    tokens = [_token(field, value) for field, value in fields.items()]
    return orjson.dumps({"t": tokens, "e": NEVER if expires_at is None else expires_at} | numbers)


def expression(filter: Filter | None, now: float) -> str:
    """True of every item that the filter matches and that has not expired."""
    parts = (_bounds(part) if isinstance(part, Between) else _total(part) for part in _all_of(filter))
    return " and ".join([f".e > {now:.6f}", *(part for part in parts if part)])


def _all_of(filter: Filter | None) -> list[Filter]:
    """What all has to match for the filter to match."""
    if isinstance(filter, And):
        return [inner for part in filter.parts for inner in _all_of(part)]
    return [] if filter is None else [filter]


def _bounds(filter: Between) -> str:
    """Redis skips items without the number, as the filter does; a bound that cannot be written is left to others."""
    bounds = ((">", filter.gt), ("<", filter.lt), (">=", filter.gte), ("<=", filter.lte))
    written = ((sign, f"{Decimal(repr(bound)):f}") for sign, bound in bounds if math.isfinite(bound))
    number = _number(filter.field)
    return " and ".join(f".{number} {sign} {digits}" for sign, digits in written if len(digits) < MAX_DIGITS)


def _total(filter: Filter) -> str | None:
    """True where the filter matches, false where not, whatever an item lacks; None if that cannot be said."""
    match filter:
        case OneOf(field, values):
            return _joined("or", [f'"{_token(field, value)}" in .t' for value in values])
        case And(parts) | Or(parts):
            said = [each for part in parts if (each := _total(part)) is not None]
            return _joined("and" if isinstance(filter, And) else "or", said) if len(said) == len(parts) else None
        case Not(part):
            return None if (inner := _total(part)) is None else f"not ({inner})"
        case Between():
            return None


def _joined(word: str, parts: list[str]) -> str:
    if not parts:
        return "1" if word == "and" else "0"
    return "(" + f" {word} ".join(parts) + ")"


def _token(field: str, value: Value) -> str:
    """Numbers that are equal have one token: 3 and 3.0, 0.0 and -0.0."""
    shown = repr(value + 0.0) if isinstance(value, float) else repr(value)
    return _hash(f"{len(field)}:{field}{shown}")


def _number(field: str) -> str:
    return "n" + _hash(field)


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
