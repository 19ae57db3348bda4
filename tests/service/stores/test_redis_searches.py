"""Searches in a real Redis 8: over shards, by its index, with translated filters."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored import DIM, C, Opening, ids, item, items, nearest, truly_nearest, until_passed, vectors

from service.stores.base import Store
from service.stores.filters import Filter, matches, parse
from service.stores.open import open_store

BY_INDEX = {"exact_up_to": 0, "exact_filtered_up_to": 0}  # small collections are searched as large ones are
TOLERANCE = 5e-4  # of a score where vectors are kept in half precision


@pytest.mark.parametrize("shards", [1, 2, 7])
async def test_shards_answer_as_one(opening: Opening, shards: int) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0", shards=shards)
    put = [item(f"d{number}", vector, metadata={"number": number}) for number, vector in enumerate(vectors(500))]
    await store.put(C, put)

    for query in vectors(10, seed=1):
        assert ids(await nearest(store, query)) == truly_nearest(put, query)
        among = parse({"or": [{"number": {"lt": 30}}, {"number": 77}]})
        meant = [each for each in put if matches(among, each.metadata)]
        assert ids(await nearest(store, query, filter=among)) == truly_nearest(meant, query)
        scores = [match.score for match in await nearest(store, query, top_k=500)]
        np.testing.assert_allclose(scores, np.sort([each.vector @ query for each in put])[::-1], atol=1e-5)


async def test_a_cluster_answers_as_one_server(opening: Opening, empty_redis_cluster: str) -> None:
    one, cluster = await opening(), await opening(empty_redis_cluster)
    put = items(300)
    for store in (one, cluster):
        await store.create(C, dim=DIM, fingerprint="f0")
        await store.put(C, put)
        await store.delete(C, ["d7"])

    queries = vectors(20, seed=1)
    answers = [await store.search(C, queries, top_k=10, with_vectors=True) for store in (one, cluster)]
    for found, other in zip(*answers, strict=True):
        assert ids(found) == ids(other)
        np.testing.assert_allclose([match.score for match in found], [match.score for match in other], atol=1e-6)


async def test_redis_and_the_embedded_store_answer_alike(
    opening: Opening, empty_redis_cluster: str, tmp_path: Path
) -> None:
    """They hold the same items after the same changes, and find the same ones with the same scores."""
    chance = random.Random(1)
    embedded = await open_store(f"sqlite://{tmp_path}")
    stores: list[Store] = [await opening(), await opening(empty_redis_cluster), embedded]
    now = time.time()
    put = [
        item(
            f"d{chance.randrange(300)}",
            vector,
            chance.choice("草哈"),
            metadata={"room": chance.randrange(8), "seconds": chance.random(), "up": chance.choice(["aqua", "mea"])},
            expires_at=chance.choice([None, now - 5, now + 1000]),
            count=chance.randint(1, 3),
        )
        for vector in vectors(400)
    ]
    sources: list[Any] = [
        {},
        {"room": {"in": [1, 2]}, "up": "mea"},
        {"not": {"seconds": {"gte": 0.3}}},
        {"or": [{"room": 3}, {"seconds": {"lt": 0.1}}]},
    ]
    answers = []
    for store in stores:
        await store.create(C, dim=DIM, fingerprint="f0")
        said: list[Any] = []
        for start in range(0, 400, 50):
            await store.put(C, put[start : start + 50])
        said.append(await store.delete_where(C, parse({"room": 7})))
        said.append(await store.delete(C, ["d1", "d2", "none"]))
        held = await store.get(C, [f"d{number}" for number in range(300)])
        said.append([(each.id, each.text, each.metadata, each.expires_at, each.count) for each in held.values()])
        page = await store.page(C, limit=1000)
        said.append(sorted(each.id for each in page.items))
        found = [
            {match.item.id: match.score for match in matched}
            for source in sources
            for matched in await store.search(C, vectors(10, seed=1), top_k=20, filter=parse(source), min_score=0.1)
        ]
        answers.append((said, found))
    await embedded.close()

    (said_first, found_first), *others = answers
    for said, found in others:
        assert said == said_first
        for scores, others_scores in zip(found, found_first, strict=True):
            assert_alike(scores, others_scores)


def assert_alike(scores: dict[str, float], others: dict[str, float]) -> None:
    """Asserts equal results, except for items so close to the end of the list that half precision decides."""
    shared = sorted(scores.keys() & others.keys())
    np.testing.assert_allclose(
        [scores[item_id] for item_id in shared], [others[item_id] for item_id in shared], atol=TOLERANCE
    )
    ends = [0.1, min(scores.values(), default=0.1), min(others.values(), default=0.1)]
    for item_id in scores.keys() ^ others.keys():
        assert min(abs({**scores, **others}[item_id] - end) for end in ends) < 2 * TOLERANCE
    assert len(shared) >= len(scores) - 2


# Searches by the index


async def test_the_index_finds_nearly_all(opening: Opening) -> None:
    store = await opening(**BY_INDEX)
    await store.create(C, dim=DIM, fingerprint="f0", shards=2)
    put = items(2000)
    await store.put(C, put)
    queries = vectors(50, seed=1)

    found = await store.search(C, queries, top_k=10)

    hits = sum(len({*ids(each)} & {*truly_nearest(put, query)}) for each, query in zip(found, queries, strict=True))
    assert hits >= 0.95 * 500


@pytest.mark.parametrize(
    ("source", "least"),
    [
        ({"share": {"lt": 0.5}}, 0.9),
        ({"not": {"share": {"lt": 0.5}}}, 0.9),
        ({"share": {"lt": 0.01}}, 1.0),  # fewer than the index is asked for: so all are looked at
        ({"or": [{"share": {"lt": 0.01}}, {"none": 1}]}, 1.0),
        ({"share": {"lt": 0.002}}, 1.0),
        ({"share": {"lt": 0}}, 1.0),
    ],
    ids=str,
)
async def test_the_index_with_a_filter_finds_nearly_all(opening: Opening, source: Any, least: float) -> None:
    """The filter may match many, few or none, and Redis may be able to evaluate all of it or only a part."""
    store = await opening(**BY_INDEX)
    await store.create(C, dim=DIM, fingerprint="f0", shards=2)
    put = [item(f"d{number}", vector, metadata={"share": number / 1000}) for number, vector in enumerate(vectors(1000))]
    await store.put(C, put)
    among = parse(source)
    meant = [each for each in put if matches(among, each.metadata)]
    queries = vectors(10, seed=1)

    found = await store.search(C, queries, top_k=10, filter=among)

    assert all(len(each) == min(10, len(meant)) for each in found)
    assert all(matches(among, match.item.metadata) for each in found for match in each)
    hits = sum(len({*ids(each)} & {*truly_nearest(meant, query)}) for each, query in zip(found, queries, strict=True))
    assert hits >= least * sum(map(len, found))


async def test_the_rest_is_found_when_most_have_expired(opening: Opening) -> None:
    """The index still holds the expired ones."""
    store = await opening(**BY_INDEX, sweep_every_s=1000)
    await store.create(C, dim=DIM, fingerprint="f0")
    put = items(500)
    ends = time.time() + 1.5
    await store.put(C, [item(each.id, each.vector, expires_at=ends) for each in put[:490]] + put[490:])
    await until_passed(ends)

    for query in vectors(5, seed=1):
        assert ids(await nearest(store, query)) == truly_nearest(put[490:], query)
    assert (await store.describe(C)).count == 500


# Translated filters

STRANGE: list[Any] = [
    "", "草", '"', "'", "\\", '" or 1 or "', "') or (1", "a\nb", "\u2028", "3", 3, 3.0, -3, 0, -0.0, True, False, 1,
    2**53, 2**53 + 1, 2**53 + 2, 2**64 - 1, 1e300, 1e-300, -1e-7, 0.1, 1795425804.123456, None, [1], {"a": 1},
]  # fmt: skip


def some_filter(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.choice(["is", "is", "in", "range", "and", "or", "not"] if depth < 3 else ["is", "range"])
    values = [value for value in STRANGE if isinstance(value, str | int | float)]
    numbers = [value for value in values if not isinstance(value, str | bool)]
    field = chance.choice(["a", "b", 'f" in .t or "', "草 x"])
    if kind == "is":
        return {field: chance.choice(values)}
    if kind == "in":
        return {field: {"in": chance.sample(values, chance.randint(0, 4))}}
    if kind == "range":
        return {field: {sign: chance.choice(numbers) for sign in chance.sample(["gt", "gte", "lt", "lte"], 2)}}
    if kind == "not":
        return {"not": some_filter(chance, depth + 1)}
    return {kind: [some_filter(chance, depth + 1) for _ in range(chance.randint(1, 3))]}


async def test_filters_mean_the_same_in_redis(opening: Opening) -> None:
    """No field name or value becomes part of an expression."""
    chance = random.Random(0)
    store = await opening(**BY_INDEX)
    await store.create(C, dim=DIM, fingerprint="f0")
    put = [
        item(
            f"d{number}",
            vector,
            metadata={field: chance.choice(STRANGE) for field in chance.sample(["a", "b", 'f" in .t or "', "草 x"], 3)},
        )
        for number, vector in enumerate(vectors(120))
    ]
    await store.put(C, put)
    for _ in range(150):
        among: Filter = parse(some_filter(chance))
        meant = {each.id for each in put if matches(among, each.metadata)}

        assert {*ids(await nearest(store, put[0].vector, filter=among, top_k=120))} == meant, among


async def test_the_largest_valid_filter_is_accepted(opening: Opening) -> None:
    store = await opening()
    await store.create(C, dim=DIM, fingerprint="f0")
    (vector,) = vectors(1)
    await store.put(C, [item("a", vector, metadata={"room": 255}), item("b", vector, metadata={"room": 256})])
    deep: Any = {"room": {"in": list(range(256))}}
    for _ in range(14):
        deep = {"not": deep}

    assert ids(await nearest(store, vector, filter=parse(deep))) == ["a"]
