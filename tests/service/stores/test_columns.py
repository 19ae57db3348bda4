"""Filters over columns mean what filters over metadata mean."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from service.stores.filters import filterable, matches, parse
from service.stores.sqlite.columns import Column, evaluate, list_fields

FIELDS = ("room", "name", "mixed")
BIG = 32447933084336131  # a danmaku's id: its neighbours are the same float64
BIGS: list[Any] = [BIG, BIG + 1, BIG + 2, float(BIG), 2**53, 2**53 + 1, -BIG, 2**64 - 1]
OTHERS: list[Any] = [0, 1, 2, 2.5, -1, 1e300, 10**400, float("nan"), True, False, "", "1", "草", None, [1], {"in": [1]}]
VALUES = BIGS + OTHERS


def any_filter(chance: random.Random, depth: int = 0) -> Any:
    plain = [value for value in VALUES if filterable(value) is not None]
    kind = chance.choice(["equal", "in", "between", "and", "or", "not"] if depth < 3 else ["equal", "in", "between"])
    field = chance.choice(FIELDS)
    if kind == "equal":
        return {field: chance.choice(plain)}
    if kind == "in":
        return {field: {"in": chance.sample(plain, chance.randrange(4))}}
    if kind == "between":
        bounds = chance.sample(["gt", "gte", "lt", "lte"], chance.randrange(1, 3))
        return {field: {bound: chance.choice([0, 1, 2, 2.5, *BIGS]) for bound in bounds}}
    if kind == "not":
        return {"not": any_filter(chance, depth + 1)}
    return {kind: [any_filter(chance, depth + 1) for _ in range(chance.randrange(1, 4))]}


def test_columns_and_metadata_agree() -> None:
    chance = random.Random(3)
    rows = [{field: chance.choice(VALUES) for field in FIELDS if chance.random() < 0.8} for _ in range(200)]
    columns = {field: Column(len(rows) + 5) for field in FIELDS}
    for position, metadata in enumerate(rows):
        for field, column in columns.items():
            column.set(position, chance.choice(VALUES))  # what stood there before leaves nothing behind
            column.set(position, metadata.get(field))
    some = np.array(sorted(chance.sample(range(len(rows)), 50)))

    for _ in range(500):
        source = any_filter(chance)
        condition = parse(source)
        assert list_fields(condition) <= set(FIELDS)
        expected = [matches(condition, metadata) for metadata in rows]
        assert evaluate(condition, columns, slice(0, len(rows)), len(rows)).tolist() == expected, source
        assert evaluate(condition, columns, some, len(some)).tolist() == [expected[row] for row in some], source


def test_values_of_rows_that_are_gone_are_forgotten() -> None:
    column = Column(1000)
    for position in range(1000):
        column.set(position, f"viewer {position}")
    few = column.select(np.array([3, 7]), 4)
    few.set(2, "viewer 8")
    few.set(3, "viewer 7")

    assert sorted(few.code_of) == ["viewer 3", "viewer 7", "viewer 8"]
    condition = parse({"by": {"in": ["viewer 7", "viewer 8"]}})
    assert evaluate(condition, {"by": few}, slice(0, 4), 4).tolist() == [False, True, True, True]
