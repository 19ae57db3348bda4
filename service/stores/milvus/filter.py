"""Translates metadata and filters for Milvus: into tokens that are stored, and expressions that searches evaluate.

Milvus evaluates a missing field, a number in JSON and a quoted string differently from version to version. So each
field of an item is stored as a token, a hash of its name, type and value, in an array that every item has:
`array_contains(tokens, …)` is always true or false, integers of any size are exact, and no text of a filter becomes
part of an expression. Numbers are stored a second time, for bounds, as float64.

An expression never excludes an item that its filter matches. It may match more if bounds are inside `or` or `not`,
since an item may lack the number, or if a bound is beyond 2^53; such expressions are marked, and the found items are
checked against the filter itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from service.stores.filters import (
    And,
    Between,
    Filter,
    Not,
    OneOf,
    Or,
    Value,
    filterable,
    is_number,
)

EXACT = 2.0**53  # below, every integer is a float64
NOTHING, EVERYTHING = "count < 0", "count >= 0"  # Milvus has no constants


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression of Milvus, and whether it matches exactly what its filter does, or more."""

    text: str
    is_exact: bool


def list_tokens(metadata: Mapping[str, Any]) -> list[int]:
    """Returns a token for each field that filters can compare."""
    return [_token(field, value) for field, raw in metadata.items() if (value := filterable(raw)) is not None]


def list_numbers(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of the metadata by the key that expressions have for their field."""
    return {_key(field): float(value) for field, raw in metadata.items() if is_number(value := filterable(raw))}


def build_expression(condition: Filter) -> Expression:
    """Returns an expression that is true of every item that the filter matches."""
    match condition:
        case Between():
            return _write_bounds(condition)
        case And(parts) if parts:
            written = [build_expression(part) for part in parts]
            return Expression(_join("and", [part.text for part in written]), all(part.is_exact for part in written))
        case _:
            text = _write_total(condition)
            return Expression(text or EVERYTHING, text is not None)


def _write_bounds(condition: Between) -> Expression:
    """Returns the bounds as float64. Items without the number do not match, as in the filter."""
    bounds = ((">", condition.gt), ("<", condition.lt), (">=", condition.gte), ("<=", condition.lte))
    finite = [(sign, float(bound)) for sign, bound in bounds if math.isfinite(bound)]
    if not finite:
        return Expression(EVERYTHING, False)  # any number matches, and nothing else
    is_exact = all(abs(bound) < EXACT for _, bound in finite)
    place = f'numbers["{_key(condition.field)}"]'
    return Expression(
        _join("and", [f"{place} {sign if is_exact else f'{sign[0]}='} {bound!r}" for sign, bound in finite]), is_exact
    )


def _write_total(condition: Filter) -> str | None:
    """Returns an expression that agrees with the filter on every item, whatever its fields; None if impossible."""
    match condition:
        case OneOf(field, values):
            tokens = [_token(field, value) for value in values]
            return f"array_contains_any(tokens, {tokens})" if tokens else NOTHING
        case And(parts) | Or(parts):
            written = [each for part in parts if (each := _write_total(part)) is not None]
            word = "and" if isinstance(condition, And) else "or"
            return _join(word, written) if len(written) == len(parts) else None
        case Not(part):
            return None if (inner := _write_total(part)) is None else f"not ({inner})"
        case Between():
            return None


def _join(word: str, parts: list[str]) -> str:
    if not parts:
        return EVERYTHING if word == "and" else NOTHING
    return "(" + f" {word} ".join(parts) + ")"


def _token(field: str, value: Value) -> int:
    """Equal numbers share a token: 3 and 3.0, 0.0 and -0.0."""
    if is_number(value) and value == float(value):  # Python compares the two exactly
        value = float(value) + 0.0
    return int.from_bytes(_hash(f"{len(field)}:{field}{value!r}"), signed=True)


def _key(field: str) -> str:
    """Returns a name of letters and digits for a field's number, whatever the field's name consists of."""
    return "n" + _hash(field).hex()


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
