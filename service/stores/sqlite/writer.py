"""The one thread that changes a database: what is asked for at the same time shares a commit.

A commit waits for the disk, so a hundred callers with a commit each would wait a hundred times. Here whatever has
come while a commit was on its way goes into the next one, each piece of work behind a savepoint of its own: one that
fails is undone alone. Then the indices follow, and only then the callers hear of it.

Between times it tidies up, in steps small enough to let work in between.
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
Follow = Callable[[], None]  # makes the indices agree with what was committed
Work = Callable[[sqlite3.Connection], tuple[T, Follow]]

MAX_GROUP = 256
TIDY_EVERY_S = 1.0
TIDY_AGAIN_AFTER_FAILURE_S = 30.0


class Writer:
    """`tidy` is work that says whether there is more to do. `changing` is held while database and indices differ."""

    def __init__(self, connection: sqlite3.Connection, changing: threading.Lock, tidy: Work[bool]) -> None:
        self._connection, self._changing, self._tidy = connection, changing, tidy
        self._waiting: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._stopping = threading.Lock()  # between the last work and the end
        self._is_open = True
        self._group: list[tuple[Work[Any], Future[Any]]] = []  # what is being committed
        self._thread = threading.Thread(target=self._run, name="write collections", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        """Its result, once what it did is on the disk and in the indices. Raises what the work raised, StorageFull, or
        StoreUnavailable.
        """
        future: Future[T] = Future()
        with self._stopping:
            if not self._is_open:
                raise StoreUnavailable("the collections are closed")
            self._waiting.put((work, future))
        return future

    def close(self) -> None:
        """Ends what was submitted."""
        with self._stopping:
            self._is_open = False
            self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            # Database and indices may differ now: nothing is written until a start makes them agree.
            log.exception("Collections can no longer be changed.")
            with self._stopping:
                self._is_open = False
            while not self._waiting.empty():
                self._group += [taken] if (taken := self._waiting.get()) else []
            for _, future in self._group:
                if not future.done():
                    future.set_exception(StoreUnavailable("collections cannot be changed now; the log says why"))

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
                    log.warning("Expired danmaku could not be cleared away: %s", tidying.exception())
                    tidy_at = time.monotonic() + TIDY_AGAIN_AFTER_FAILURE_S
                elif not tidying.result():
                    tidy_at = time.monotonic() + TIDY_EVERY_S
                    if is_tidying:  # the file shrinks when the log has been brought into it, now or later
                        with contextlib.suppress(sqlite3.Error):
                            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                is_tidying = not tidying.exception() and tidying.result()

    def _take(self, until: float) -> tuple[list[tuple[Work[Any], Future[Any]]], bool]:
        """What waits, after waiting for something until then; and whether nothing can follow."""
        group: list[tuple[Work[Any], Future[Any]]] = []
        timeout = max(0.0, until - time.monotonic())
        while len(group) < MAX_GROUP:
            try:
                taken = self._waiting.get(timeout=timeout)
            except queue.Empty:
                break
            if taken is None:
                return group, True
            group.append(taken)
            timeout = 0
        return group, False

    def _commit(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        self._group = group = [each for each in group if each[1].set_running_or_notify_cancel()]
        if not group:
            return
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        with self._changing:
            try:
                followers = self._transact(group, outcomes)
            except Exception as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                outcomes = [(future, None, explained(error)) for _, future in group]
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
                if not self._connection.in_transaction:  # SQLite has undone all of it
                    raise
                execute("ROLLBACK TO work")
                outcomes.append((future, None, explained(error)))
            else:
                followers.append(follow)
                outcomes.append((future, result, None))
            execute("RELEASE work")
        execute("COMMIT")
        return followers


def explained(error: Exception) -> Exception:
    """SQLite's errors as ours."""
    if not isinstance(error, sqlite3.Error):
        return error
    # The last is a full disk, too: no room for the table of contents of the log.
    if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):
        return StorageFull("the disk of the collections is full; nothing of this change was kept")
    log.error("The database of collections failed.", exc_info=error)
    return StoreUnavailable(f"the database of collections failed: {error}")
