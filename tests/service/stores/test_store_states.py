"""Random sequences of store calls, some of them concurrent, against a plain dict.

After every step the store must contain what the dict contains: each item once, with its count, and none that was
deleted, replaced or expired. Meanwhile, the embedded store moves rows into its graph and compacts it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from stored import DIM, everything, same, until_passed, vectors

from service.stores.base import Item, Match, Store
from service.stores.filters import Filter, matches, parse
from service.stores.milvus.store import MilvusStore
from service.stores.sqlite.store import SqliteStore
from service.stores.sqlite.tuning import Tuning

T = TypeVar("T")
Open = Callable[[], Awaitable[Store]]

# Graphs of few rows, used for every search and compacted after few removals.
TUNING = Tuning(
    exact_up_to=10,
    tail=3,
    in_order_us=50.0,
    scattered_us=50.0,
    maintain_every_s=0.001,
    snapshot_rows=5,
    snapshot_share=0,
)
SETTINGS = settings(
    max_examples=12,
    stateful_step_count=15,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
VECTORS = vectors(30)
NAMES = (f"states{number}" for number in count())  # a collection for each run

ids = st.integers(0, 39).map(lambda number: f"d{number}")
items = st.builds(
    lambda item_id, text, vector, room, count: Item(item_id, text, VECTORS[vector], {"room": room}, count=count),
    ids,
    st.sampled_from(["草", "awsl", "晚安"]),
    st.integers(0, len(VECTORS) - 1),
    st.integers(0, 2),
    st.integers(1, 3),
)
filters = st.sampled_from([{}, {"room": 1}, {"not": {"room": 0}}, {"room": {"gte": 1}}, {"room": 7}]).map(parse)


class StoreMachine(RuleBasedStateMachine):
    """A store and the dict that it must agree with."""

    def __init__(self, open_store: Open) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.open_store, self.name = open_store, next(NAMES)
        self.expected: dict[str, Item] = {}

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.store = self.run(self.open_store())
        self.run(self.store.create(self.name, dim=DIM, fingerprint="f0"))

    def expect_put(self, put: list[Item]) -> None:
        for item in put:
            before = self.expected.get(item.id)
            if before is not None and before.text == item.text:
                item = replace(item, count=before.count + item.count)
            self.expected[item.id] = item

    @rule(put=st.lists(items, max_size=25))
    def put(self, put: list[Item]) -> None:
        ids = {item.id for item in put}
        changes = self.run(self.store.put(self.name, put))
        assert changes.replaced == len(ids & self.expected.keys())
        assert changes.added == len(ids) - changes.replaced
        self.expect_put(put)

    @rule(deleted=st.lists(ids, max_size=15))
    def delete(self, deleted: list[str]) -> None:
        assert self.run(self.store.delete(self.name, deleted)) == len({*deleted} & self.expected.keys())
        self.expected = {item_id: item for item_id, item in self.expected.items() if item_id not in deleted}

    @rule(condition=filters.filter(lambda condition: condition != parse({})))
    def delete_where(self, condition: Filter) -> None:
        meant = {item_id for item_id, item in self.expected.items() if matches(condition, item.metadata)}
        assert self.run(self.store.delete_where(self.name, condition)) == len(meant)
        self.expected = {item_id: item for item_id, item in self.expected.items() if item_id not in meant}

    @rule(put=st.lists(items, min_size=1, max_size=10))
    def expire(self, put: list[Item]) -> None:
        ends = time.time() + 0.005
        self.run(self.store.put(self.name, [replace(item, expires_at=ends) for item in put]))
        self.run(until_passed(ends))
        for item in put:
            self.expected.pop(item.id, None)

    @rule()
    def replace_all(self) -> None:
        """Copies the items into another collection, which then takes the name, like a rebuild."""
        aside = f"{self.name}.aside"
        self.run(self.store.create(aside, dim=DIM, fingerprint="f0"))
        self.run(self.store.put(aside, list(self.expected.values())))
        self.run(self.store.swap(self.name, aside))

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.open_store())

    @rule(query=st.integers(0, len(VECTORS) - 1), condition=st.none() | filters, top_k=st.sampled_from([1, 5, 100]))
    def search(self, query: int, condition: Filter | None, top_k: int) -> None:
        (found,) = self.run(self.store.search(self.name, VECTORS[query][None], top_k=top_k, filter=condition))
        scores = {
            item_id: float(item.vector @ VECTORS[query])
            for item_id, item in self.expected.items()
            if condition is None or matches(condition, item.metadata)
        }
        self.check_matches(found, scores)
        assert len(found) == min(top_k, len(scores))
        best = sorted(scores.values(), reverse=True)[: len(found)]
        np.testing.assert_allclose([match.score for match in found], best, atol=2e-3)

    @rule(put=st.lists(items, max_size=15), deleted=st.lists(ids, max_size=10), query=st.integers(0, 29))
    def change_and_search_at_once(self, put: list[Item], deleted: list[str], query: int) -> None:
        """Items that are not touched are found; the others as they were before or as they are afterwards."""
        put = [item for item in put if item.id not in deleted]
        touched = {*deleted, *(item.id for item in put)}
        untouched = self.expected.keys() - touched
        _, count, (found,) = self.run(self.change_and_search(put, deleted, VECTORS[query]))
        assert count == len({*deleted} & self.expected.keys())
        found_ids = [match.item.id for match in found]
        assert len(found_ids) == len({*found_ids})
        assert untouched <= {*found_ids} <= self.expected.keys() | touched
        self.expected = {item_id: item for item_id, item in self.expected.items() if item_id not in deleted}
        self.expect_put(put)

    async def change_and_search(self, put: list[Item], deleted: list[str], query: np.ndarray) -> tuple[Any, int, Any]:
        return await asyncio.gather(
            self.store.put(self.name, put),
            self.store.delete(self.name, deleted),
            self.store.search(self.name, query[None], top_k=1000),
        )

    def check_matches(self, found: list[Match], scores: dict[str, float]) -> None:
        """Asserts that each match is one of the expected items, once, with its own score."""
        assert len(found) == len({match.item.id for match in found})
        for match in found:
            assert match.score == pytest.approx(scores[match.item.id], abs=2e-3)

    @invariant()
    def holds_what_was_put(self) -> None:
        held = self.run(everything(self.store, self.name))
        assert held.keys() == self.expected.keys()
        assert all(same(held[item_id], item) for item_id, item in self.expected.items())

    def teardown(self) -> None:
        self.run(self.store.drop(self.name))
        self.run(self.store.close())
        self.loop.close()


@pytest.fixture(params=["sqlite", "milvus"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    if request.param == "sqlite":
        yield lambda: SqliteStore.open(tmp_path, TUNING)
    else:
        url = request.getfixturevalue("empty_milvus")
        yield lambda: MilvusStore.open(url)


def test_a_store_agrees_with_a_dict(open_store: Open) -> None:
    run_state_machine_as_test(lambda: StoreMachine(open_store), settings=SETTINGS)
