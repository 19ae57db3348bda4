"""The truth of the embedded store: collections and their items in SQLite.

Every row has a number, which is never given again. A row's vector never changes: an item whose text or vector is
replaced gets a new row. So who has seen rows up to a number knows them for good, and only has to find out which are
gone.

Vectors stand in tables of their own, since most that is asked for is text and metadata, and they are float16: half
the disk and half the memory, for scores that differ in the fourth digit. A collection that was dropped has no name any
more; its rows go in small steps, as expired ones do.

The functions here know one connection and no threads.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.errors import ConfigurationError
from service.stores.base import Changes, Item
from service.stores.sqlite.index import Metadata, NewRows

VERSION = 1
ROWS_AT_A_TIME = 500  # of one statement, and of one step of removal
PAGES_AT_A_TIME = 500  # given back to the file system
# FULL: a commit is on the disk when it returns, so it outlives a power cut, not just this process. Those who write at
# the same time share a commit and its wait.
PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 67108864;
PRAGMA busy_timeout = 10000;
"""
SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE collections (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, dim INTEGER, fingerprint TEXT, created_at REAL
);
"""
TABLES = """
CREATE TABLE items_{0} (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, metadata BLOB NOT NULL,
    expires_at REAL, count INTEGER NOT NULL
);
CREATE INDEX expiry_{0} ON items_{0} (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE vectors_{0} (number INTEGER PRIMARY KEY, vector BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Row:
    """A collection, as the database knows it."""

    number: int
    name: str
    dim: int
    fingerprint: str
    created_at: float


@dataclass(frozen=True)
class Written:
    """What a `put` did, for the index to follow."""

    changes: Changes
    removed: list[int]
    added: NewRows
    updated: list[tuple[int, float, Metadata]]  # number, end, metadata of rows that keep their vector


def reading(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript("PRAGMA query_only = 1; PRAGMA busy_timeout = 10000;")
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """To write. Raises ConfigurationError if there is a file that is no database of ours."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise ConfigurationError(f"{path} is of version {version}; this software knows version {VERSION}")
        if version == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before there is anything
        connection.executescript(PRAGMAS)
        if version == 0:
            connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ConfigurationError(f"{path} cannot be used as a database of collections: {error}") from None
    except ConfigurationError:
        connection.close()
        raise
    return connection


def collections(connection: sqlite3.Connection) -> list[Row]:
    query = "SELECT number, name, dim, fingerprint, created_at FROM collections WHERE name IS NOT NULL"
    return [Row(*row) for row in connection.execute(query)]


def create(connection: sqlite3.Connection, name: str, dim: int, fingerprint: str) -> Row:
    insert = "INSERT INTO collections (name, dim, fingerprint, created_at) VALUES (?, ?, ?, ?)"
    now = time.time()
    number = connection.execute(insert, (name, dim, fingerprint, now)).lastrowid
    assert number is not None
    for statement in TABLES.format(number).split(";"):  # executescript would commit
        connection.execute(statement)
    return Row(number, name, dim, fingerprint, now)


def find(connection: sqlite3.Connection, name: str) -> Row | None:
    return next((row for row in collections(connection) if row.name == name), None)


def rename(connection: sqlite3.Connection, number: int, name: str | None) -> None:
    """None drops it."""
    connection.execute("UPDATE collections SET name = ? WHERE number = ?", (name, number))


def put(connection: sqlite3.Connection, collection: int, dim: int, items: Sequence[Item]) -> Written:
    now = time.time()
    removed: list[int] = []
    updated: list[tuple[int, float, Metadata]] = []
    new: list[Item] = []
    replaced = 0
    distinct = _merged(items)
    halves = np.array([item.vector for item in distinct], np.float32).reshape(-1, dim).astype(np.float16)
    rows = []
    for position, item in enumerate(distinct):
        query = f"SELECT number, text, count, expires_at FROM items_{collection} WHERE id = ?"
        old = connection.execute(query, (item.id,)).fetchone()
        if old is not None:
            number, text, count, expires_at = old
            is_there = expires_at is None or expires_at > now
            replaced += is_there
            if is_there and text == item.text:
                item = replace(item, count=item.count + count)
                (vector,) = connection.execute(
                    f"SELECT vector FROM vectors_{collection} WHERE number = ?", (number,)
                ).fetchone()
                if vector == halves[position].tobytes():
                    update = f"UPDATE items_{collection} SET metadata = ?, expires_at = ?, count = ? WHERE number = ?"
                    connection.execute(update, (orjson.dumps(item.metadata), item.expires_at, item.count, number))
                    updated.append((number, _end(item.expires_at), dict(item.metadata)))
                    continue
            removed.append(number)
        new.append(item)
        rows.append(position)
    delete_rows(connection, collection, removed)
    insert = f"INSERT INTO items_{collection} (id, text, metadata, expires_at, count) VALUES (?, ?, ?, ?, ?)"
    numbers = [
        connection.execute(
            insert, (item.id, item.text, orjson.dumps(item.metadata), item.expires_at, item.count)
        ).lastrowid
        for item in new
    ]
    vectors = halves[rows]
    connection.executemany(
        f"INSERT INTO vectors_{collection} VALUES (?, ?)",
        ((number, vector.tobytes()) for number, vector in zip(numbers, vectors, strict=True)),
    )
    ends = np.array([_end(item.expires_at) for item in new], np.float64)
    added = NewRows(np.array(numbers, np.int64), vectors, ends, [dict(item.metadata) for item in new])
    return Written(Changes(len(distinct) - replaced, replaced), removed, added, updated)


def _merged(items: Sequence[Item]) -> list[Item]:
    """One item per id: the last, and counts of equal texts one after the other added up."""
    merged: dict[str, Item] = {}
    for item in items:
        before = merged.get(item.id)
        if before is not None and before.text == item.text:
            item = replace(item, count=before.count + item.count)
        merged[item.id] = item
    return list(merged.values())


def _end(expires_at: float | None) -> float:
    return math.inf if expires_at is None else expires_at


def numbers_of(connection: sqlite3.Connection, collection: int, ids: Iterable[str]) -> tuple[list[int], int]:
    """Numbers of the rows of these ids, and how many of them have not expired."""
    now = time.time()
    query = f"SELECT number, expires_at FROM items_{collection} WHERE id IN ({{}})"
    found = list(_in_steps(connection, query, list(dict.fromkeys(ids))))
    return [number for number, _ in found], sum(end is None or end > now for _, end in found)


def expired(connection: sqlite3.Connection, collection: int) -> list[int]:
    """Numbers of some rows whose time is over."""
    query = f"SELECT number FROM items_{collection} WHERE expires_at <= ? ORDER BY expires_at LIMIT {ROWS_AT_A_TIME}"
    return [number for (number,) in connection.execute(query, (time.time(),))]


def delete_rows(connection: sqlite3.Connection, collection: int, numbers: Sequence[int]) -> int:
    """How many there were."""
    vectors, items = (
        connection.executemany(f"DELETE FROM {table}_{collection} WHERE number = ?", ((n,) for n in numbers))
        for table in ("vectors", "items")
    )
    return max(items.rowcount, 0)


def clear_away(connection: sqlite3.Connection) -> bool:
    """Removes a little of what nobody can see any more: of dropped collections, and free pages of the file.

    Whether there may be more.
    """
    dropped = connection.execute("SELECT number FROM collections WHERE name IS NULL LIMIT 1").fetchone()
    if dropped is not None:
        (collection,) = dropped
        query = f"SELECT number FROM items_{collection} LIMIT {ROWS_AT_A_TIME}"
        numbers = [number for (number,) in connection.execute(query)]
        delete_rows(connection, collection, numbers)
        if not numbers:
            connection.execute(f"DROP TABLE items_{collection}")
            connection.execute(f"DROP TABLE vectors_{collection}")
            connection.execute("DELETE FROM collections WHERE number = ?", (collection,))
        return True
    free, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
    if free > max(PAGES_AT_A_TIME, pages // 10):  # some are needed again soon
        for _ in range(PAGES_AT_A_TIME):  # Python takes only the first step of a pragma, which is one page
            connection.execute("PRAGMA incremental_vacuum(1)")
        return True
    return False


ITEM = "i.number, i.id, i.text, i.metadata, i.expires_at, i.count"


def by_number(
    connection: sqlite3.Connection, collection: int, numbers: Sequence[int], *, with_vectors: bool
) -> dict[int, Item]:
    """Those that are still there."""
    query = f"SELECT {_columns(with_vectors)} FROM {_tables(collection, with_vectors)} WHERE i.number IN ({{}})"
    return {row[0]: _item(row) for row in _in_steps(connection, query, numbers)}


def by_id(connection: sqlite3.Connection, collection: int, ids: Sequence[str]) -> dict[str, Item]:
    now = time.time()
    query = f"SELECT {_columns(True)} FROM {_tables(collection, True)} WHERE i.id IN ({{}})"
    items = (_item(row) for row in _in_steps(connection, query, list(dict.fromkeys(ids))))
    return {item.id: item for item in items if _end(item.expires_at) > now}


def page(
    connection: sqlite3.Connection, collection: int, after: str | None, limit: int, *, with_vectors: bool
) -> list[Item]:
    """In order of id, since a row's number changes with its text."""
    query = (
        f"SELECT {_columns(with_vectors)} FROM {_tables(collection, with_vectors)} "
        "WHERE (?1 IS NULL OR i.id > ?1) AND (i.expires_at IS NULL OR i.expires_at > ?2) ORDER BY i.id LIMIT ?3"
    )
    return [_item(row) for row in connection.execute(query, (after, time.time(), limit))]


def all_rows(connection: sqlite3.Connection, collection: int, dim: int) -> NewRows:
    """Everything that an index is made of."""
    numbers, ends = [], []
    for number, end in connection.execute(f"SELECT number, expires_at FROM items_{collection} ORDER BY number"):
        numbers.append(number)
        ends.append(_end(end))
    vectors = np.empty((len(numbers), dim), np.float16)
    stored = connection.execute(f"SELECT vector FROM vectors_{collection} ORDER BY number")
    for start in range(0, len(numbers), ROWS_AT_A_TIME):
        part = b"".join(vector for (vector,) in stored.fetchmany(ROWS_AT_A_TIME))
        vectors[start : start + ROWS_AT_A_TIME] = np.frombuffer(part, "<f2").reshape(-1, dim)
    return NewRows(np.array(numbers, np.int64), vectors, np.array(ends, np.float64), [])


def all_metadata(connection: sqlite3.Connection, collection: int) -> Iterator[tuple[int, Metadata]]:
    for number, metadata in connection.execute(f"SELECT number, metadata FROM items_{collection}"):
        yield number, orjson.loads(metadata)


def mean_row_bytes(connection: sqlite3.Connection, collection: int) -> float:
    """Of text, id and metadata, told from some rows."""
    sizes = "length(CAST(id AS BLOB)) * 2 + length(CAST(text AS BLOB)) + length(metadata)"
    query = f"SELECT avg(size) FROM (SELECT {sizes} AS size FROM items_{collection} LIMIT 1000)"
    return float(connection.execute(query).fetchone()[0] or 0)


def _in_steps(connection: sqlite3.Connection, query: str, keys: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(keys), ROWS_AT_A_TIME):
        some = keys[start : start + ROWS_AT_A_TIME]
        yield from connection.execute(query.format(", ".join("?" * len(some))), some)


def _columns(with_vectors: bool) -> str:
    return f"{ITEM}, v.vector" if with_vectors else f"{ITEM}, NULL"


def _tables(collection: int, with_vectors: bool) -> str:
    return f"items_{collection} i" + (f" JOIN vectors_{collection} v USING (number)" if with_vectors else "")


def _item(row: tuple[Any, ...]) -> Item:
    _, id, text, metadata, expires_at, count, vector = row
    numbers = None if vector is None else np.frombuffer(vector, "<f2").astype(np.float32)
    return Item(id, text, numbers, orjson.loads(metadata), expires_at, count)
