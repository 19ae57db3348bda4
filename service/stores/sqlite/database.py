"""Stores collections and their items in SQLite, the source of truth of the embedded store.

Every row has a number, which is never reused. A row's vector never changes: an item whose text or vector is replaced
gets a new row. So rows that were read once stay valid, and a reader only has to learn which of them are gone.

Vectors have separate tables, since most queries need only text and metadata. They are float16: half the disk and
half the memory, for scores that differ in the fourth digit. A dropped collection loses its name at once and its rows in
small steps, like expired rows.

The functions here work on one connection and know nothing of threads.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.errors import ConfigurationError
from service.shape import count_levels
from service.stores.base import Changes, Item, add_counts, merge_items
from service.stores.sqlite.index import Metadata, RowBatch

log = logging.getLogger("danmaku")

VERSION = 1
ROWS_AT_A_TIME = 500  # per statement, and per step of removal
MAX_READABLE_LEVELS = 128  # levels of metadata: older versions stored deeper ones, which no answer can hold
MAX_NAMED = 10  # damaged rows that the log names
# FULL: a commit is on the disk when it returns, so it survives a power cut, not only the end of this process.
# Concurrent writers share a commit and its wait.
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
class StoredCollection:
    """A collection's entry in the database."""

    number: int
    name: str
    dim: int
    fingerprint: str
    created_at: float


@dataclass(frozen=True)
class PutResult:
    """The row changes of a `put`, for the index to apply."""

    changes: Changes
    removed: list[int]
    added: RowBatch
    updated: list[tuple[int, float, Metadata]]  # number, end, metadata of rows that keep their vector


def connect_reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript("PRAGMA query_only = 1; PRAGMA busy_timeout = 10000;")
    return connection


def connect_writer(path: Path) -> sqlite3.Connection:
    """Opens the database, and creates it if needed. Raises ConfigurationError if the file is not a database of ours."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise ConfigurationError(f"{path} has format version {version}; expected {VERSION}")
        if version == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # works only in an empty database
        connection.executescript(PRAGMAS)
        if version == 0:
            connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # its messages quote names of the file
        connection.close()
        raise ConfigurationError(f"{path} cannot be used as a collection database: {error}") from None
    except ConfigurationError:
        connection.close()
        raise
    return connection


def list_collections(connection: sqlite3.Connection) -> list[StoredCollection]:
    query = "SELECT number, name, dim, fingerprint, created_at FROM collections WHERE name IS NOT NULL"
    found = []
    for row in connection.execute(query):
        stored = StoredCollection(*row)
        if _is_sound(stored):
            found.append(stored)
        else:
            log.error("Collection %r is damaged in the database and left out: %r.", stored.name, row)
    return found


def _is_sound(stored: StoredCollection) -> bool:
    return (
        isinstance(stored.name, str)
        and isinstance(stored.dim, int)
        and stored.dim > 0
        and isinstance(stored.fingerprint, str)
        and isinstance(stored.created_at, int | float)
    )


def create_collection(connection: sqlite3.Connection, name: str, dim: int, fingerprint: str) -> StoredCollection:
    insert = "INSERT INTO collections (name, dim, fingerprint, created_at) VALUES (?, ?, ?, ?)"
    now = time.time()
    number = connection.execute(insert, (name, dim, fingerprint, now)).lastrowid
    assert number is not None
    for statement in TABLES.format(number).split(";"):  # executescript would commit
        connection.execute(statement)
    return StoredCollection(number, name, dim, fingerprint, now)


def find_collection(connection: sqlite3.Connection, name: str) -> StoredCollection | None:
    return next((stored for stored in list_collections(connection) if stored.name == name), None)


def rename_collection(connection: sqlite3.Connection, number: int, name: str | None) -> None:
    """Gives the collection another name; None drops it."""
    connection.execute("UPDATE collections SET name = ? WHERE number = ?", (name, number))


def put(connection: sqlite3.Connection, collection: int, dim: int, items: Sequence[Item]) -> PutResult:
    now = time.time()
    removed: list[int] = []
    updated: list[tuple[int, float, Metadata]] = []
    new: list[Item] = []
    replaced = 0
    distinct = merge_items(items)
    halves = np.array([item.vector for item in distinct], np.float32).reshape(-1, dim).astype(np.float16)
    rows = []
    for position, item in enumerate(distinct):
        query = f"SELECT number, text, count, expires_at FROM items_{collection} WHERE id = ?"
        old = connection.execute(query, (item.id,)).fetchone()
        if old is not None:
            number, text, count, expires_at = old
            is_live = _end_of(expires_at) > now
            replaced += is_live
            is_sound = isinstance(count, int) and isinstance(expires_at, int | float | None)
            if is_live and text == item.text and is_sound:  # the index has no damaged row to update
                item = replace(item, count=add_counts(item.count, count))
                (vector,) = connection.execute(
                    f"SELECT vector FROM vectors_{collection} WHERE number = ?", (number,)
                ).fetchone() or (None,)
                if vector == halves[position].tobytes():
                    update = f"UPDATE items_{collection} SET metadata = ?, expires_at = ?, count = ? WHERE number = ?"
                    connection.execute(update, (orjson.dumps(item.metadata), item.expires_at, item.count, number))
                    updated.append((number, _end_of(item.expires_at), dict(item.metadata)))
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
    ends = np.array([_end_of(item.expires_at) for item in new], np.float64)
    added = RowBatch(np.array(numbers, np.int64), vectors, ends, [dict(item.metadata) for item in new])
    return PutResult(Changes(len(distinct) - replaced, replaced), removed, added, updated)


def _end_of(expires_at: float | None) -> float:
    return expires_at if isinstance(expires_at, int | float) else math.inf


def find_numbers(connection: sqlite3.Connection, collection: int, ids: Iterable[str]) -> tuple[list[int], int]:
    """Returns the row numbers of these ids, and how many of the rows have not expired."""
    now = time.time()
    query = f"SELECT number, expires_at FROM items_{collection} WHERE id IN ({{}})"
    rows = list(_select_in_steps(connection, query, list(dict.fromkeys(ids))))
    return [number for number, _ in rows], sum(_end_of(end) > now for _, end in rows)


def find_expired(connection: sqlite3.Connection, collection: int) -> list[int]:
    """Returns the numbers of up to ROWS_AT_A_TIME expired rows."""
    query = f"SELECT number FROM items_{collection} WHERE expires_at <= ? ORDER BY expires_at LIMIT {ROWS_AT_A_TIME}"
    return [number for (number,) in connection.execute(query, (time.time(),))]


def delete_rows(connection: sqlite3.Connection, collection: int, numbers: Sequence[int]) -> int:
    """Deletes rows by number; returns how many existed."""
    vectors, items = (
        connection.executemany(f"DELETE FROM {table}_{collection} WHERE number = ?", ((n,) for n in numbers))
        for table in ("vectors", "items")
    )
    return max(items.rowcount, 0)


def reclaim_space(connection: sqlite3.Connection, pages_at_a_time: int) -> bool:
    """Removes some rows of dropped collections, or some free pages of the file; returns whether more may be left."""
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
    if free > max(pages_at_a_time, pages // 10):  # some will soon be needed again
        for _ in range(pages_at_a_time):  # Python runs only the first step of a pragma, which frees one page
            connection.execute("PRAGMA incremental_vacuum(1)")
        return True
    return False


ITEM = "i.number, i.id, i.text, i.metadata, i.expires_at, i.count"


def read_by_number(
    connection: sqlite3.Connection, collection: int, numbers: Sequence[int], *, with_vectors: bool
) -> dict[int, Item]:
    """Returns the items of these rows, without those that are gone."""
    query = (
        f"SELECT {_select_columns(with_vectors)} FROM {_join_tables(collection, with_vectors)} WHERE i.number IN ({{}})"
    )
    return {row[0]: _to_item(row) for row in _select_in_steps(connection, query, numbers)}


def read_by_id(connection: sqlite3.Connection, collection: int, ids: Sequence[str]) -> dict[str, Item]:
    """Returns the items of these ids, with vectors, without those that are missing or expired."""
    now = time.time()
    query = f"SELECT {_select_columns(True)} FROM {_join_tables(collection, True)} WHERE i.id IN ({{}})"
    items = (_to_item(row) for row in _select_in_steps(connection, query, list(dict.fromkeys(ids))))
    return {item.id: item for item in items if _end_of(item.expires_at) > now}


def read_page(
    connection: sqlite3.Connection, collection: int, after: str | None, limit: int, *, with_vectors: bool
) -> list[Item]:
    """Returns up to `limit` items in order of id; a row's number would change with its text."""
    query = (
        f"SELECT {_select_columns(with_vectors)} FROM {_join_tables(collection, with_vectors)} "
        "WHERE (?1 IS NULL OR i.id > ?1) AND (i.expires_at IS NULL OR i.expires_at > ?2) ORDER BY i.id LIMIT ?3"
    )
    return [_to_item(row) for row in connection.execute(query, (after, time.time(), limit))]


def find_damaged(connection: sqlite3.Connection, collection: int, dim: int) -> dict[int, str]:
    """Returns the numbers and ids of rows that no index can hold: their vector is missing or has another length."""
    query = (
        f"SELECT i.number, i.id FROM items_{collection} i LEFT JOIN vectors_{collection} v USING (number) "
        "WHERE typeof(v.vector) != 'blob' OR length(v.vector) != ? OR typeof(i.expires_at) = 'text' "
        "OR typeof(i.expires_at) = 'blob' OR typeof(i.id) != 'text' OR typeof(i.text) != 'text'"
    )
    return {number: str(item_id) for number, item_id in connection.execute(query, (2 * dim,))}


def read_rows(connection: sqlite3.Connection, collection: int, dim: int) -> tuple[RowBatch, dict[int, str]]:
    """Reads all rows of a collection, without metadata, to build an index; also returns the damaged ones, left out."""
    damaged = find_damaged(connection, collection, dim)
    numbers, ends = [], []
    for number, end in connection.execute(f"SELECT number, expires_at FROM items_{collection} ORDER BY number"):
        if number not in damaged:
            numbers.append(number)
            ends.append(_end_of(end))
    vectors = np.empty((len(numbers), dim), np.float16)
    # Joined, because a vector without an item would shift all following ones.
    stored = connection.execute(
        f"SELECT i.number, v.vector FROM items_{collection} i JOIN vectors_{collection} v USING (number) "
        "ORDER BY i.number"
    )
    sound = (vector for number, vector in stored if number not in damaged)
    for start in range(0, len(numbers), ROWS_AT_A_TIME):
        part = b"".join(islice(sound, ROWS_AT_A_TIME))
        vectors[start : start + ROWS_AT_A_TIME] = np.frombuffer(part, "<f2").reshape(-1, dim)
    return RowBatch(np.array(numbers, np.int64), vectors, np.array(ends, np.float64), []), damaged


def iterate_metadata(connection: sqlite3.Connection, collection: int) -> Iterator[tuple[int, Metadata]]:
    """Yields the number and metadata of every row."""
    for number, metadata in connection.execute(f"SELECT number, metadata FROM items_{collection}"):
        yield number, _read_metadata(metadata)


def _read_metadata(stored: Any) -> Metadata:
    """Returns stored metadata, or none if it is damaged or too deep for an answer, so the item can still be found."""
    try:
        metadata = orjson.loads(stored)
    except (ValueError, TypeError):
        return {}
    if not isinstance(metadata, dict):
        return {}
    # Each level takes two bytes, so most need no counting.
    is_deep = len(stored) > 2 * MAX_READABLE_LEVELS and count_levels(metadata) > MAX_READABLE_LEVELS
    return {} if is_deep else metadata


def estimate_row_bytes(connection: sqlite3.Connection, collection: int) -> float:
    """Estimates the mean size of text, id and metadata from up to 1,000 rows."""
    sizes = "length(CAST(id AS BLOB)) * 2 + length(CAST(text AS BLOB)) + length(metadata)"
    query = f"SELECT avg(size) FROM (SELECT {sizes} AS size FROM items_{collection} LIMIT 1000)"
    return float(connection.execute(query).fetchone()[0] or 0)


def _select_in_steps(connection: sqlite3.Connection, query: str, keys: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(keys), ROWS_AT_A_TIME):
        some = keys[start : start + ROWS_AT_A_TIME]
        yield from connection.execute(query.format(", ".join("?" * len(some))), some)


def _select_columns(with_vectors: bool) -> str:
    return f"{ITEM}, v.vector" if with_vectors else f"{ITEM}, NULL"


def _join_tables(collection: int, with_vectors: bool) -> str:
    return f"items_{collection} i" + (f" JOIN vectors_{collection} v USING (number)" if with_vectors else "")


def _to_item(row: tuple[Any, ...]) -> Item:
    """Returns the item of a row. A damaged item can at least be seen, replaced and deleted."""
    _, item_id, text, metadata, expires_at, count, vector = row
    is_readable = isinstance(vector, bytes) and len(vector) % 2 == 0
    return Item(
        str(item_id),
        str(text),
        np.frombuffer(vector, "<f2").astype(np.float32) if is_readable else None,
        _read_metadata(metadata),
        expires_at if isinstance(expires_at, int | float) else None,
        count if isinstance(count, int) else 1,
    )
