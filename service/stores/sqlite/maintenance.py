"""What happens to indices behind the backs of those who search: rows move into graphs, graphs are saved and restored.

A snapshot is a convenience. It may be old, missing or damaged: then more rows are compared one by one until they are in
the graph again, and no answer is wrong, since vectors come from the database.
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

log = logging.getLogger("danmaku")

TEND_EVERY_S = 0.2
LOG_EVERY_S = 10.0
# A snapshot is due when so many rows, and such a share of the graph, are not in the last one.
SNAPSHOT_ROWS, SNAPSHOT_SHARE = 20_000, 0.2
SAVE_AGAIN_AFTER_FAILURE_S = 60.0


class Collection:
    """A collection that is open: its row in the database, its index, and where that is saved."""

    def __init__(self, row: database.Row, index: Index, directory: Path) -> None:
        self.row, self.index = row, index
        self.snapshot = directory / f"{row.number}.graph"
        self._saved: tuple[Graph | None, int] = (None, 0)  # what the snapshot holds, and how many of its rows
        self._save_after = 0.0

    @classmethod
    def restored(
        cls, row: database.Row, directory: Path, connection: sqlite3.Connection, changing: threading.Lock
    ) -> Collection:
        """From the database, and from a snapshot as far as there is one."""
        collection = cls(row, Index(row.dim, changing), directory)
        rows = database.all_rows(connection, row.number, row.dim)
        try:
            graph, known = Graph.load(collection.snapshot, row.dim)
            collection.index = Index.restored(row.dim, changing, graph, known, rows)
            collection._saved = graph, graph.size
        except FileNotFoundError:
            collection.index.add(rows)
        except (ValueError, RuntimeError, OSError) as error:
            log.warning("The snapshot of collection %s cannot be used, so its graph is built anew: %s", row.name, error)
            collection.index.add(rows)
        return collection

    def save_if_due(self) -> None:
        graph, numbers = self.index.snapshot()
        size = self._saved[1] if graph is self._saved[0] else 0
        if len(numbers) > size + SNAPSHOT_ROWS + SNAPSHOT_SHARE * size and time.monotonic() >= self._save_after:
            self.save()

    def save(self) -> None:
        """What fails is logged: nothing is lost but time at the next start."""
        graph, numbers = self.index.snapshot()
        if (graph, len(numbers)) == self._saved:
            return
        try:
            if len(numbers):
                graph.save(self.snapshot, numbers)
            else:
                self.snapshot.unlink(missing_ok=True)
            self._saved = graph, len(numbers)
        except (OSError, RuntimeError) as error:
            self._save_after = time.monotonic() + SAVE_AGAIN_AFTER_FAILURE_S
            log.warning("No snapshot could be written to %s: %s", self.snapshot, error)


class Tender:
    """A thread that looks after the collections that there are at the time."""

    def __init__(self, collections: Callable[[], Iterable[Collection]]) -> None:
        self._collections = collections
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tend collections", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        logged_at = time.monotonic()
        while not self._stop.wait(TEND_EVERY_S):
            for collection in self._collections():
                try:
                    collection.index.tend(self._stop.is_set)
                except Exception:  # the others go on, and this one is searched as it is
                    log.exception("The index of collection %s could not be tended.", collection.row.name)
                collection.save_if_due()
                done, rows = collection.index.progress
                if done and rows - done > SNAPSHOT_ROWS and time.monotonic() > logged_at + LOG_EVERY_S:
                    logged_at = time.monotonic()
                    log.info("Collection %s: %d of %d vectors are in the graph.", collection.row.name, done, rows)
