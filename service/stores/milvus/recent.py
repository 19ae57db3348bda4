"""Remembers what this gateway wrote in the last seconds, because a read of Milvus may not see it yet.

Milvus promises that a read with bounded staleness sees all writes older than `common.gracefulTime`, 5 s.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

KEEP_S = 10.0


@dataclass(frozen=True, slots=True)
class Written:
    """The facts about a row that an addition needs."""

    put_at: float  # Unix time, seconds
    text: str | None  # None: deleted
    count: int
    expires_at: float


class Recent:
    """Rows by key."""

    def __init__(self) -> None:
        self._rows: dict[str, Written] = {}
        self._order: deque[tuple[float, str]] = deque()

    def clear(self) -> None:
        self._rows.clear()
        self._order.clear()

    def put(self, rows: Mapping[str, Written]) -> None:
        for key, row in rows.items():
            self._rows[key] = row
            self._order.append((row.put_at, key))
        while self._order and self._order[0][0] < time.time() - KEEP_S:
            put_at, key = self._order.popleft()
            if key in self._rows and self._rows[key].put_at == put_at:
                del self._rows[key]

    def latest(self, key: str, stored: Written | None) -> Written | None:
        """Returns the later one, since another gateway may also have written."""
        row = self._rows.get(key)
        return stored if row is None or (stored is not None and stored.put_at > row.put_at) else row
