"""The writer thread: one commit for a group of changes, and errors for the callers whose changes failed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from service.errors import StoreUnavailable
from service.stores.sqlite import database
from service.stores.sqlite.writer import Follow, Work, Writer


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = database.connect_writer(tmp_path / "collections.db")
    connection.execute("CREATE TABLE numbers (number INTEGER UNIQUE)")
    yield connection
    connection.close()


@pytest.fixture
def writer(connection: sqlite3.Connection) -> Iterator[Writer]:
    writer = Writer(connection, threading.Lock(), lambda connection: (False, lambda: None))
    yield writer
    writer.close()


def insert(number: int, followed: list[int], on_conflict: str = "ABORT") -> Work[int]:
    def work(connection: sqlite3.Connection) -> tuple[int, Follow]:
        connection.execute(f"INSERT OR {on_conflict} INTO numbers VALUES (?)", (number,))
        return number, lambda: followed.append(number)

    return work


def submit_together(writer: Writer, *works: Work[Any]) -> list[Future[Any]]:
    """Submits works that share a commit, because they all wait for the one before it."""
    is_running, may_end = threading.Event(), threading.Event()

    def wait(connection: sqlite3.Connection) -> tuple[None, Follow]:
        is_running.set()
        may_end.wait(60)
        return None, lambda: None

    writer.submit(wait)
    is_running.wait(60)
    futures = [writer.submit(work) for work in works]
    may_end.set()
    return futures


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]


def test_only_failed_work_is_undone(connection: sqlite3.Connection, writer: Writer) -> None:
    followed: list[int] = []
    one, again, two = submit_together(writer, insert(1, followed), insert(1, followed), insert(2, followed))

    assert (one.result(60), two.result(60)) == (1, 2)
    with pytest.raises(StoreUnavailable, match="UNIQUE constraint failed"):
        again.result(60)
    assert numbers(connection) == followed == [1, 2]


def test_a_group_that_sqlite_rolled_back_fails_as_a_whole(connection: sqlite3.Connection, writer: Writer) -> None:
    """Some errors end the transaction: nothing of the group is stored, and every caller gets the cause."""
    followed: list[int] = []
    futures = submit_together(
        writer, insert(1, followed), insert(1, followed, on_conflict="ROLLBACK"), insert(2, followed)
    )

    for future in futures:
        with pytest.raises(StoreUnavailable, match="UNIQUE constraint failed"):
            future.result(60)
    assert numbers(connection) == followed == []
    assert writer.submit(insert(3, followed)).result(60) == 3
    assert numbers(connection) == followed == [3]


def test_nothing_is_written_after_the_indexes_were_lost(connection: sqlite3.Connection, writer: Writer) -> None:
    """The callers of the group get an error, and so do all later ones."""

    def lose(connection: sqlite3.Connection) -> tuple[None, Follow]:
        def follow() -> None:
            raise MemoryError

        return None, follow

    futures = submit_together(writer, insert(1, []), lose, insert(2, []))

    for future in futures:
        with pytest.raises(StoreUnavailable, match="until the next start"):
            future.result(60)
    with pytest.raises(StoreUnavailable):
        writer.submit(insert(3, []))
    assert numbers(connection) == [1, 2]
