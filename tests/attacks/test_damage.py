"""Random damage: files that are not as they were written, and a Redis that answers anything."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from conftest import ClientOf
from damaged import fill, open_damaged_model, outcomes, use_damaged_store
from fakes import fake_redis
from hostile import make_value

from service.settings import Settings

SCALE = int(os.environ.get("ATTACKS", "1"))  # 10 is all
DATABASES, ANSWERS, MODELS = 100 * SCALE, 100 * SCALE, 300 * SCALE


@pytest.mark.timeout(300 * SCALE)
async def test_a_damaged_store_is_served_or_refused(tmp_path: Path) -> None:
    """Never does it end the process, hang it, or fail with anything but an error that says what is wrong."""
    await fill(tmp_path)
    counts = Counter(outcomes(use_damaged_store, tmp_path, range(DATABASES)))
    print(f"{DATABASES} damaged stores: {dict(counts)}")
    assert counts["served"] and counts["ConfigurationError"]


@pytest.mark.timeout(300 * SCALE)
async def test_a_redis_that_answers_anything_costs_only_its_vectors(client_of: ClientOf) -> None:
    """Each answer meets a gateway of its own, because a gateway soon asks such a Redis no more."""
    for seed in range(ANSWERS):
        async with fake_redis(lambda _: make_value(seed)) as url, client_of(Settings(cache=url)) as http:  # noqa: B023
            for _ in range(2):
                answer = await http.post("/embed", json=["aa", "b"])
                assert (answer.status_code, answer.json()["embeddings"]) == (200, [[2, 194], [1, 98]]), seed


@pytest.mark.timeout(300 * SCALE)
def test_a_damaged_model_is_opened_or_refused(tiny_model: Path) -> None:
    counts = Counter(outcomes(open_damaged_model, tiny_model, range(MODELS)))
    print(f"{MODELS} damaged models: {dict(counts)}")
    assert counts["ModelError"] and counts["opened"]
