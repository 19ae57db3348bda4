"""Background maintenance of indexes: moves rows into graphs, saves graphs and restores them.

A snapshot only saves time. If it is old, missing or damaged, more rows are compared one by one until they are in the
graph again. No answer changes, since vectors come from the database.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from service.stores.sqlite import database
from service.stores.sqlite.graph import Graph
from service.stores.sqlite.index import Index
from service.stores.sqlite.tuning import Tuning

log = logging.getLogger("danmaku")

LOG_EVERY_S = 10.0
RETRY_SAVE_AFTER_S = 60.0
ESTIMATE_SHARE = 0.1  # relative change in the number of rows before their size is estimated again


class OpenCollection:
    """A collection with its index: its entry in the database, and the file that its graph is saved to."""

    def __init__(self, stored: database.StoredCollection, index: Index, directory: Path, tuning: Tuning) -> None:
        self.stored, self.index, self._tuning = stored, index, tuning
        self.damaged = 0  # items in the database that the index leaves out
        self.row_bytes = 0.0  # on the disk, of one row; an estimate
        self._estimated_count: int | None = None
        self.snapshot = directory / f"{stored.number}.graph"
        self.snapshot_bytes = self._measure_snapshot()
        self._saved: tuple[Graph | None, int] = (None, 0)  # the rows in the snapshot, and their number
        self._save_after = 0.0

    @classmethod
    def restore(
        cls,
        stored: database.StoredCollection,
        directory: Path,
        connection: sqlite3.Connection,
        changing: threading.Lock,
        tuning: Tuning,
    ) -> OpenCollection:
        """Builds the index from the database, using the snapshot as far as there is one."""
        collection = cls(stored, Index(stored.dim, changing, tuning), directory, tuning)
        rows, damaged = database.read_rows(connection, stored.number, stored.dim)
        if damaged:
            collection.damaged = len(damaged)
            named = ", ".join(map(repr, list(damaged.values())[: database.MAX_NAMED]))
            log.error("%d damaged danmaku of collection %s are left out: %s", len(damaged), stored.name, named)
        try:
            graph, known = Graph.load(collection.snapshot, stored.dim)
            collection.index = Index.restore(changing, graph, known, rows, tuning)
            collection._saved = graph, graph.size
        except FileNotFoundError:
            collection.index.add(rows)
        except (ValueError, RuntimeError, OSError) as error:
            log.warning("The snapshot of collection %s is unusable; its graph is rebuilt: %s", stored.name, error)
            collection.index.add(rows)
        return collection

    def is_estimated(self, count: int) -> bool:
        """Returns whether `row_bytes` was estimated at about this number of rows; asking the database takes longer."""
        known = self._estimated_count
        return known is not None and abs(count - known) <= known * ESTIMATE_SHARE

    def keep_estimate(self, count: int, row_bytes: float) -> None:
        self._estimated_count, self.row_bytes = count, row_bytes

    def _measure_snapshot(self) -> int:
        try:
            return self.snapshot.stat().st_size
        except OSError:  # there is none
            return 0

    def save_if_due(self) -> None:
        graph, numbers = self.index.snapshot()
        size = self._saved[1] if graph is self._saved[0] else 0
        least = size + self._tuning.snapshot_rows + self._tuning.snapshot_share * size
        if len(numbers) > least and time.monotonic() >= self._save_after:
            self.save()

    def save(self) -> None:
        """Writes the snapshot. A failure is logged: all it costs is time at the next start."""
        graph, numbers = self.index.snapshot()
        if (graph, len(numbers)) == self._saved:
            return
        try:
            if len(numbers):
                graph.save(self.snapshot, numbers)
            else:
                self.snapshot.unlink(missing_ok=True)
            self._saved = graph, len(numbers)
            self.snapshot_bytes = self._measure_snapshot()
        except (OSError, RuntimeError) as error:
            self._save_after = time.monotonic() + RETRY_SAVE_AFTER_S
            log.warning("The snapshot %s could not be written: %s", self.snapshot, error)


class MaintenanceThread:
    """A thread that maintains the open collections until it is closed."""

    def __init__(self, list_collections: Callable[[], Iterable[OpenCollection]], tuning: Tuning) -> None:
        self._list_collections, self._tuning = list_collections, tuning
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintain collections", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        logged_at = time.monotonic()
        while not self._stop.wait(self._tuning.maintain_every_s):
            for collection in self._list_collections():
                try:
                    collection.index.maintain(self._stop.is_set)
                except Exception:  # searches keep working on the existing index
                    log.exception("The index of collection %s could not be maintained.", collection.stored.name)
                collection.save_if_due()
                done, rows = collection.index.progress
                is_behind = done and rows - done > self._tuning.snapshot_rows
                if is_behind and time.monotonic() > logged_at + LOG_EVERY_S:
                    logged_at = time.monotonic()
                    log.info("Collection %s: %d of %d vectors are in the graph.", collection.stored.name, done, rows)
