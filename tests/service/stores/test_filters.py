"""The filter language: its meaning and its errors."""

from __future__ import annotations

import re
from typing import Any

import pytest

from service.errors import InvalidRequest
from service.stores.filters import MAX_CONDITIONS, MAX_DEPTH, matches, parse

ITEM = {"room": 3, "uploader": "aqua", "live": True, "seconds": 12.5, "tags": ["a"], "nothing": None}


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"room": 3},
        {"room": 3.0},
        {"uploader": "aqua"},
        {"live": True},
        {"room": 3, "uploader": "aqua"},
        {"room": {"in": [1, 3]}},
        {"uploader": {"in": ["mea", "aqua"]}},
        {"seconds": {"gte": 12.5}},
        {"seconds": {"gt": 12, "lt": 13}},
        {"room": {"lte": 3}},
        {"and": [{"room": 3}, {"seconds": {"lt": 20}}]},
        {"or": [{"room": 4}, {"uploader": "aqua"}]},
        {"not": {"room": 4}},
        {"not": {"missing": 1}},
        {"not": {"missing": {"lt": 5}}},
        {"room": 3, "or": [{"live": False}, {"not": {"room": {"gt": 5}}}]},
    ],
)
def test_it_matches(source: Any) -> None:
    assert matches(parse(source), ITEM)


@pytest.mark.parametrize(
    "source",
    [
        {"room": 4},
        {"room": "3"},
        {"live": 1},
        {"room": True},
        {"uploader": "Aqua"},
        {"room": 3, "uploader": "mea"},
        {"room": {"in": []}},
        {"room": {"in": [1, 2]}},
        {"missing": 3},
        {"missing": {"lt": 5}},
        {"seconds": {"gt": 12.5}},
        {"seconds": {"lt": 12.5}},
        {"seconds": {"gte": 20, "lte": 10}},
        {"uploader": {"lt": 5}},
        {"live": {"lte": 1}},
        {"tags": "a"},
        {"nothing": False},
        {"and": [{"room": 3}, {"room": 4}]},
        {"or": [{"room": 4}, {"room": 5}]},
        {"not": {"room": 3}},
        {"not": {}},
    ],
)
def test_it_does_not_match(source: Any) -> None:
    assert not matches(parse(source), ITEM)


def nested(levels: int) -> dict[str, Any]:
    return {"not": nested(levels - 1)} if levels else {"room": 3}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([1], 'filter: expected an object such as {"room": 3}, not [1]'),
        (None, "not null"),
        ({"room": None}, "filter.room: expected a string, a number or a boolean, not null"),
        ({"room": [3]}, "filter.room: expected a string, a number or a boolean, not [3]"),
        ({"room": float("nan")}, "filter.room: expected a string, a number or a boolean, not nan"),
        ({"room": 10**400}, "filter.room: expected a string, a number or a boolean"),
        ({"room": {}}, "filter.room: expected a value"),
        ({"room": {"above": 3}}, "filter.room: expected a value"),
        ({"room": {"in": 3}}, "filter.room.in: expected a list of values, not 3"),
        ({"room": {"in": [3, None]}}, "filter.room.in[1]: expected a string, a number or a boolean"),
        ({"room": {"in": [3], "gt": 2}}, "filter.room: expected a value"),
        ({"room": {"gt": "3"}}, "filter.room.gt: expected a number, not '3'"),
        ({"room": {"gt": True}}, "filter.room.gt: expected a number"),
        ({"and": {"room": 3}}, "filter.and: expected a list of filters"),
        ({"or": []}, "filter.or: expected a list of filters"),
        ({"or": [{"room": 3}, 4]}, "filter.or[1]: expected an object"),
        ({"not": [3]}, "filter.not: expected an object"),
        ({"room": {"in": list(range(MAX_CONDITIONS + 1))}}, "more than 256 values"),
        (nested(MAX_DEPTH + 1), "more than 16 levels"),
    ],
)
def test_an_invalid_filter_is_explained(source: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        parse(source)


def test_the_limits_themselves_are_allowed() -> None:
    parse({"room": {"in": list(range(MAX_CONDITIONS))}})
    parse(nested(MAX_DEPTH))
