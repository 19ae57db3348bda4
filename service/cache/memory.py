"""A least-recently-used cache in this process, limited in bytes.

It is an OrderedDict and not a library with times to live: vectors of one fingerprint never go stale, so nothing expires
and no clock is read.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from service.metrics import Metrics

# Bytes besides text and vector: the key's tuple, a slot of the dictionary and its link in the order (measured with
# tracemalloc in benchmarks/cache_memory.py).
ENTRY_OVERHEAD = 160


class MemoryCache:
    """A `Cache`; `max_bytes` of 0 stores nothing."""

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._max_bytes, self._metrics = max_bytes, metrics
        self._entries: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    async def get_many(
        self, fingerprint: str, texts: Sequence[str], *, vector_bytes: int | None = None
    ) -> dict[str, bytes]:
        found = {}
        for text in texts:
            key = (fingerprint, text)
            if (vector := self._entries.get(key)) is not None:
                self._entries.move_to_end(key)
                found[text] = vector
        self._metrics.cache_hits.inc(len(found))
        self._metrics.cache_misses.inc(len(texts) - len(found))
        return found

    async def set_many(self, fingerprint: str, vectors: Mapping[str, bytes]) -> None:
        if not self._max_bytes:
            return
        for text, vector in vectors.items():
            key = (fingerprint, text)
            if key in self._entries:
                self._forget(key)
            self._entries[key] = vector
            self._bytes += _cost(text, vector)
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))
        self._metrics.cache_bytes.set(self._bytes)
        self._metrics.cache_texts.set(len(self._entries))

    async def close(self) -> None: ...

    def _forget(self, key: tuple[str, str]) -> None:
        self._bytes -= _cost(key[1], self._entries.pop(key))


def _cost(text: str, vector: bytes) -> int:
    return sys.getsizeof(text) + sys.getsizeof(vector) + ENTRY_OVERHEAD
