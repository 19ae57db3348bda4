"""The memory cache: what it stores, what it evicts first, and that it stays within its budget."""

from __future__ import annotations

import pytest

from service.cache.memory import ENTRY_OVERHEAD, MemoryCache
from service.cache.open import open_cache
from service.errors import ConfigurationError
from service.metrics import Metrics


def value(number: int) -> bytes:
    return bytes([number]) * 1000


async def test_stored_vectors_are_found(metrics: Metrics) -> None:
    """Others are absent from the result."""
    cache = MemoryCache(100_000, metrics)
    await cache.set_many("f", {"草": value(1), "awsl": value(2)})

    assert await cache.get_many("f", ["awsl", "好", "草"]) == {"awsl": value(2), "草": value(1)}


async def test_another_fingerprint_finds_nothing(metrics: Metrics) -> None:
    """A new model never reads an old model's vectors."""
    cache = MemoryCache(100_000, metrics)
    await cache.set_many("old", {"草": value(1)})

    assert await cache.get_many("new", ["草"]) == {}


async def test_the_least_recently_used_is_evicted_first(metrics: Metrics) -> None:
    """Reading counts as use."""
    cache = MemoryCache(3 * (1000 + 200 + ENTRY_OVERHEAD), metrics)
    await cache.set_many("f", {"a": value(1), "b": value(2), "c": value(3)})
    await cache.get_many("f", ["a"])
    await cache.set_many("f", {"d": value(4)})

    assert set(await cache.get_many("f", list("abcd"))) == {"a", "c", "d"}


async def test_the_budget_is_never_exceeded(metrics: Metrics) -> None:
    """This includes a text that is set again and a request with more than fits."""
    cache = MemoryCache(10_000, metrics)
    for number in range(50):
        await cache.set_many("f", {str(number % 20): value(number), f"x{number}": value(number)})
        assert metrics.registry.get_sample_value("danmaku_cache_bytes") <= 10_000
    await cache.set_many("f", {f"y{number}": value(number) for number in range(100)})

    assert 0 < metrics.registry.get_sample_value("danmaku_cache_bytes") <= 10_000
    found = await cache.get_many("f", [f"y{number}" for number in range(100)])
    assert len(found) == metrics.registry.get_sample_value("danmaku_cache_texts")


async def test_a_budget_of_zero_stores_nothing(metrics: Metrics) -> None:
    cache = MemoryCache(0, metrics)
    await cache.set_many("f", {"草": value(1)})

    assert await cache.get_many("f", ["草"]) == {}
    assert metrics.registry.get_sample_value("danmaku_cache_bytes") == 0


def test_an_unknown_scheme_is_refused(metrics: Metrics) -> None:
    with pytest.raises(ConfigurationError, match="invalid cache disk://: expected memory://"):
        open_cache("disk://user:secret@host", max_bytes=0, ttl_s=1, number_format="float32", metrics=metrics)


async def test_hits_and_misses_are_counted(metrics: Metrics) -> None:
    cache = MemoryCache(100_000, metrics)
    await cache.set_many("f", {"草": value(1)})
    await cache.get_many("f", ["草", "好", "死"])

    def lookups(result: str) -> float | None:
        return metrics.registry.get_sample_value("danmaku_cache_lookups_total", {"tier": "memory", "result": result})

    assert (lookups("hit"), lookups("miss")) == (1, 2)
