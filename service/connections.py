"""Limits the connections of a server, and chooses which to close for a new one.

Without a limit, a thousand idle connections take all descriptors of the process, and shut out everybody else,
including the probes. Connections that have sent no request are closed first, then those whose request is incomplete,
oldest first; a connection that is being answered is never closed.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from enum import Enum
from typing import Protocol

from service.metrics import Metrics

try:
    import resource
except ImportError:  # Windows, which has no limit to raise
    resource = None  # type: ignore[assignment]

log = logging.getLogger("danmaku")

RESERVED_DESCRIPTORS = 128  # for files, databases, workers, Redis, and the connections of the port for operation
LOG_EVERY_S = 60.0


class Stage(Enum):
    IDLE = "idle"  # no request has begun
    RECEIVING = "receiving"  # a request is incomplete
    ANSWERING = "answering"


class Closable(Protocol):
    def drop(self) -> None: ...


class Connections:
    """The open connections, oldest first, by what they are doing."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit, self._metrics = limit, metrics
        self._by_stage: dict[Stage, dict[Closable, None]] = {stage: {} for stage in Stage}
        self._stages: dict[Closable, Stage] = {}
        self._logged_at = -LOG_EVERY_S

    def __len__(self) -> int:
        return len(self._stages)

    def admit(self, connection: Closable) -> bool:
        """Adds a connection, after closing another if there are too many; returns False if none may be closed."""
        if len(self._stages) >= self.limit:
            self._warn()
            for stage in (Stage.IDLE, Stage.RECEIVING):
                if oldest := next(iter(self._by_stage[stage]), None):
                    self._metrics.connections_dropped[stage.value].inc()
                    self.remove(oldest)
                    oldest.drop()
                    break
            else:
                self._metrics.connections_dropped["refused"].inc()
                return False
        self._stages[connection] = Stage.IDLE
        self._by_stage[Stage.IDLE][connection] = None
        return True

    def move(self, connection: Closable, stage: Stage) -> None:
        """Records a connection's new state; it becomes the newest one in that state."""
        if (before := self._stages.get(connection)) is not None and before is not stage:
            del self._by_stage[before][connection]
            self._by_stage[stage][connection] = None
            self._stages[connection] = stage

    def remove(self, connection: Closable) -> None:
        if (stage := self._stages.pop(connection, None)) is not None:
            del self._by_stage[stage][connection]

    def _warn(self) -> None:
        if time.monotonic() > self._logged_at + LOG_EVERY_S:
            self._logged_at = time.monotonic()
            counts = ", ".join(f"{len(self._by_stage[stage])} {stage.value}" for stage in Stage)
            log.warning("All %d connections are in use (%s); the oldest idle ones are closed.", self.limit, counts)


def limit_connections(wanted: int) -> int:
    """Returns how many connections this process can hold, at most `wanted`, after raising its descriptors to that."""
    if resource is None:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        if soft < needed:
            limit = max(1, soft - RESERVED_DESCRIPTORS, soft // 2)
            log.warning("The file descriptor limit %d allows %d connections, not %d.", soft, limit, wanted)
            return limit
    return wanted
