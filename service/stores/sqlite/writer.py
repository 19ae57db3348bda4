"""The only thread that changes a database: concurrent changes share a commit.

A commit waits for the disk, so a hundred callers with a commit each would wait a hundred times. All work that arrives
during a commit goes into the next one, each piece with its own savepoint, so only a failed piece is undone. After the
commit the indexes are updated, and then the callers get their results.

Between commits it tidies up, in steps small enough not to delay work.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from service.errors import StorageFull, StoreUnavailable

log = logging.getLogger("danmaku")

T = TypeVar("T")
Follow = Callable[[], None]  # applies a committed change to the indexes
Work = Callable[[sqlite3.Connection], tuple[T, Follow]]

MAX_GROUP = 256
TIDY_EVERY_S = 1.0
TIDY_AGAIN_AFTER_FAILURE_S = 30.0


class Writer:
    """The writer thread. `tidy` is work that returns whether more is left to do; `changing` is held while the database
    and the indexes differ.
    """

    def __init__(self, connection: sqlite3.Connection, changing: threading.Lock, tidy: Work[bool]) -> None:
        self._connection, self._changing, self._tidy = connection, changing, tidy
        self._waiting: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._stopping = threading.Lock()  # no work is queued after the end marker
        self._is_open = True
        self._group: list[tuple[Work[Any], Future[Any]]] = []  # what is being committed
        self._thread = threading.Thread(target=self._run, name="write collections", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        """Queues work. Its result arrives once its changes are on the disk and in the indexes.

        Raises StoreUnavailable if the writer is closed; the future raises what the work raised, StorageFull, or
        StoreUnavailable.
        """
        future: Future[T] = Future()
        with self._stopping:
            if not self._is_open:
                raise StoreUnavailable("the collections are closed")
            self._waiting.put((work, future))
        return future

    def close(self) -> None:
        """Finishes everything submitted so far, then ends the thread."""
        with self._stopping:
            self._is_open = False
            self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            # Database and indexes may differ now. Refuse all changes until a restart rebuilds the indexes.
            log.exception("Collections cannot be changed until the next start.")
            with self._stopping:
                self._is_open = False
            while not self._waiting.empty():
                self._group += [entry] if (entry := self._waiting.get()) else []
            for _, future in self._group:
                if not future.done():
                    future.set_exception(
                        StoreUnavailable("collections cannot be changed until the next start; the log says why")
                    )

    def _work(self) -> None:
        tidy_at, is_tidying = time.monotonic(), False
        while True:
            group, is_last = self._take(tidy_at)
            self._commit(group)
            if is_last:
                return
            if time.monotonic() >= tidy_at:
                tidying: Future[bool] = Future()
                self._commit([(self._tidy, tidying)])
                if tidying.exception():
                    log.warning("Expired danmaku could not be removed: %s", tidying.exception())
                    tidy_at = time.monotonic() + TIDY_AGAIN_AFTER_FAILURE_S
                elif not tidying.result():
                    tidy_at = time.monotonic() + TIDY_EVERY_S
                    if is_tidying:  # the file shrinks once the log is written back to it
                        with contextlib.suppress(sqlite3.Error):
                            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                is_tidying = not tidying.exception() and tidying.result()

    def _take(self, until: float) -> tuple[list[tuple[Work[Any], Future[Any]]], bool]:
        """Waits for work until then, and takes all of it; also returns whether it is the last."""
        group: list[tuple[Work[Any], Future[Any]]] = []
        timeout = max(0.0, until - time.monotonic())
        while len(group) < MAX_GROUP:
            try:
                entry = self._waiting.get(timeout=timeout)
            except queue.Empty:
                break
            if entry is None:
                return group, True
            group.append(entry)
            timeout = 0
        return group, False

    def _commit(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        self._group = group = [entry for entry in group if entry[1].set_running_or_notify_cancel()]
        if not group:
            return
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        with self._changing:
            try:
                followers = self._transact(group, outcomes)
            except Exception as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                outcomes = [(future, None, translate_error(error)) for _, future in group]
            else:
                for follow in followers:
                    follow()
        for future, result, failure in outcomes:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _transact(
        self, group: list[tuple[Work[Any], Future[Any]]], outcomes: list[tuple[Future[Any], Any, Exception | None]]
    ) -> list[Follow]:
        execute = self._connection.execute
        followers = []
        execute("BEGIN IMMEDIATE")
        for work, future in group:
            execute("SAVEPOINT work")
            try:
                result, follow = work(self._connection)
            except Exception as error:
                if not self._connection.in_transaction:  # SQLite has rolled back the whole group
                    raise
                execute("ROLLBACK TO work")
                outcomes.append((future, None, translate_error(error)))
            else:
                followers.append(follow)
                outcomes.append((future, result, None))
            execute("RELEASE work")
        execute("COMMIT")
        return followers


def translate_error(error: Exception) -> Exception:
    """Returns SQLite's errors as ours, and others unchanged."""
    if not isinstance(error, sqlite3.Error):
        return error
    # The second also means a full disk: there is no room for the index of the log.
    if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):
        return StorageFull("the disk that stores the collections is full; this change was not made")
    log.error("The collection database failed.", exc_info=error)
    return StoreUnavailable(f"the collection database failed: {error}")
