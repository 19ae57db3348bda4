"""Limits the shape of JSON before it is parsed: how many values it has, and how deeply they are nested.

A parser makes an object of every value while nothing else in this process can run, and a validator may make an error of
each: a few bytes of gzip could cost gigabytes and seconds. Counting takes a hundredth of that time, and for a usual
body it is enough to count commas and brackets.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from service.errors import InvalidRequest, MalformedRequest, TooLarge

MAX_VALUES = 250_000  # in a body: 25 for each of 10,000 danmaku
MAX_LEVELS = 64  # of lists and objects in a body
MAX_METADATA_LEVELS = 32  # answers nest metadata a few levels deeper, and JSON writers also have limits
LONG_BYTES = 64 * 2**10  # more than this is parsed in a thread
PIECE_BYTES = 256 * 2**10


def parse_json(source: bytes, whole: str) -> Any:
    """Returns the content of `source`, which errors call `whole`.

    Raises MalformedRequest for invalid JSON, TooLarge for too many values, and InvalidRequest for too many levels.
    """
    check_shape(source, whole)
    try:
        return orjson.loads(source)
    except ValueError as error:
        if source.startswith(codecs.BOM_UTF8):  # Windows' editors begin files with it
            return parse_json(source.removeprefix(codecs.BOM_UTF8), whole)
        raise MalformedRequest(f"invalid JSON in {whole}: {error}") from None


def check_shape(source: bytes, whole: str, *, max_values: int = MAX_VALUES) -> None:
    """Raises TooLarge for JSON with over `max_values` values, InvalidRequest for over MAX_LEVELS levels."""
    brackets = source.count(b"[") + source.count(b"{")
    if brackets <= MAX_LEVELS and brackets + source.count(b",") <= max_values:
        return
    values, levels = _measure(source)
    if values > max_values:
        raise TooLarge(f"too many values: {values} in {whole}; expected at most {max_values}, so send less at a time")
    if levels > MAX_LEVELS:
        name = whole.removeprefix("the ")
        raise InvalidRequest(f"invalid {name}: {levels} levels of lists and objects; expected at most {MAX_LEVELS}")


def _measure(source: bytes) -> tuple[int, int]:
    """Returns the numbers of values and of levels outside of strings, for JSON that may be invalid."""
    unescaped = source.replace(rb"\\", b"__").replace(rb"\"", b"__")  # so that every quote begins or ends a string
    values = level = deepest = 0
    is_inside = np.bool_(False)
    for start in range(0, len(unescaped), PIECE_BYTES):
        piece = np.frombuffer(unescaped, np.uint8, min(PIECE_BYTES, len(unescaped) - start), start)
        outside = ~(np.logical_xor.accumulate(piece == ord('"')) ^ is_inside)
        is_inside = np.logical_not(outside[-1])
        folded = piece | 0x20  # [ and ] become { and }
        opening = (folded == ord("{")) & outside
        values += int(np.count_nonzero(opening)) + int(np.count_nonzero((piece == ord(",")) & outside))
        changes = opening.astype(np.int8) - ((folded == ord("}")) & outside).astype(np.int8)
        levels = level + np.cumsum(changes, dtype=np.int64)
        level, deepest = int(levels[-1]), max(deepest, int(levels.max()))
    return values, deepest


def count_levels(content: object) -> int:
    """Returns the number of levels of lists and objects in parsed JSON; 0 for a plain value."""
    levels, level = 0, [content]
    while level := [each for each in level if isinstance(each, list | dict)]:
        levels += 1
        level = [inner for each in level for inner in _values(each)]
    return levels


def _values(content: Any) -> Iterable[Any]:
    return content.values() if isinstance(content, dict) else content
