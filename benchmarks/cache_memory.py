"""Compares the memory that `service/cache/memory.py` accounts for per entry with what tracemalloc measures."""

from __future__ import annotations

import argparse
import asyncio
import tracemalloc

import numpy as np

from service.cache.memory import MemoryCache
from service.metrics import Metrics

ENTRIES = 50_000


async def main() -> None:
    for dim in (256, 768):
        metrics = Metrics()
        cache = MemoryCache(2**40, metrics)
        vector = np.zeros(dim, np.float32)
        tracemalloc.start()
        for number in range(ENTRIES):
            await cache.set_many("0123456789abcdef", {f"弹幕 {number}": vector.tobytes()})
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        accounted = metrics.registry.get_sample_value("danmaku_cache_bytes") or 0
        print(
            f"{dim} dimensions: {accounted / ENTRIES:.0f} bytes an entry accounted for, {used / ENTRIES:.0f} used; "
            f"256 MiB hold {2**28 / (accounted / ENTRIES):,.0f} texts"
        )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(main())
