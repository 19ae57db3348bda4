"""Limits the memory that all requests hold together: bodies, parsed values, and unread responses.

The limits of a single request are harmless, but thirty callers who never finish a body, or never read their answers,
would still take a gigabyte. So `hold_bytes` counts large objects, and beyond the limit requests are refused until
others are done. Small requests are not counted: the limit of connections bounds their number.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass

from service.errors import MemoryFull
from service.metrics import Metrics

log = logging.getLogger("danmaku")

SMALL_BYTES = 64 * 2**10  # less than this is not worth counting
WAIT_S = 0.05
LOG_EVERY_S = 60.0
RETURN_AFTER_S = 2.0


class Memory:
    """Counts the bytes that requests hold, up to `max_bytes`."""

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._max_bytes, self._metrics = max_bytes, metrics
        self._held_bytes = self._most_bytes = 0
        self._logged_at = -LOG_EVERY_S
        metrics.held_bytes.set_function(lambda: self._held_bytes)
        metrics.held_limit_bytes.set(max_bytes)

    def take(self, count: int) -> None:
        """Raises MemoryFull if all requests together would hold more than the limit."""
        if self._held_bytes + count > self._max_bytes:
            self._metrics.refused_bytes.inc(count)
            if time.monotonic() > self._logged_at + LOG_EVERY_S:
                self._logged_at = time.monotonic()
                log.warning("Requests hold %d bytes of max_held_bytes %d; more are refused.", self._held_bytes, count)
            raise MemoryFull(
                f"no memory left: requests in progress hold {self._held_bytes} bytes, this one needs {count} more, and "
                f"the limit is {self._max_bytes}; retry later, or send less at a time"
            )
        self._held_bytes += count
        self._most_bytes = max(self._most_bytes, self._held_bytes)

    def release(self, count: int) -> None:
        self._held_bytes -= count
        if self._most_bytes > self._max_bytes // 4 and self._held_bytes < self._most_bytes // 8:
            self._most_bytes = self._held_bytes
            timer = threading.Timer(RETURN_AFTER_S, _return_free_memory)  # released memory is free a moment later
            timer.daemon = True
            timer.start()


@dataclass(slots=True)
class Hold:
    """Memory held by one request."""

    memory: Memory
    held_bytes: int = 0


current_hold: ContextVar[Hold | None] = ContextVar("current_hold", default=None)


def hold_bytes(count: int) -> None:
    """Counts bytes that the current request holds until it is done, or until `release_bytes`. Raises MemoryFull."""
    if hold := current_hold.get():
        hold.memory.take(count)
        hold.held_bytes += count


def release_bytes(count: int) -> None:
    if hold := current_hold.get():
        hold.memory.release(count)
        hold.held_bytes -= count


async def wait_for_bytes(count: int, *, timeout_s: float) -> None:
    """Waits until the current request may hold the bytes: for streams. Raises MemoryFull after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(MemoryFull):
            return hold_bytes(count)
        await asyncio.sleep(WAIT_S)
    hold_bytes(count)


def _return_free_memory() -> None:
    """Gives free memory back to the system: glibc keeps free memory between blocks that are in use."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
