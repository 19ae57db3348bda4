"""The embedded store: a directory with a database, which is the source of truth, and snapshots derived from it.

    PATH/lock               held by the process that has the directory open
    PATH/collections.db     SQLite, in WAL mode (database.py)
    PATH/3.graph            a snapshot of the graph of collection number 3 (graph.py)

One thread writes (writer.py), one maintains the indexes (maintenance.py), some read. The event loop only waits.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from service.errors import ConfigurationError, StoreUnavailable
from service.file_lock import lock_file
from service.stores.base import (
    Changes,
    CollectionInfo,
    Item,
    Match,
    Page,
    check_dim,
    check_kind,
    invalid_cursor,
    no_collection,
)
from service.stores.filters import Filter
from service.stores.sqlite import database
from service.stores.sqlite.index import Index
from service.stores.sqlite.maintenance import MaintenanceThread, OpenCollection
from service.stores.sqlite.tuning import Tuning
from service.stores.sqlite.writer import Follow, Work, Writer, translate_error
from service.tasks import Threads

T = TypeVar("T")

READERS = 4
TRIES = 10  # of a search whose rows are replaced during it
SNAPSHOT = re.compile(r"\d+\.(graph|tmp)")  # whole, and while it is written


class SqliteStore:
    """A `Store` in a directory of this machine, made by `open`."""

    def __init__(self, directory: Path, lock: IO[str], connection: sqlite3.Connection, tuning: Tuning) -> None:
        self._directory, self._lock, self._connection, self._tuning = directory, lock, connection, tuning
        self._changing = threading.Lock()
        self._collections = {
            stored.name: OpenCollection.restore(stored, directory, connection, self._changing, tuning)
            for stored in database.list_collections(connection)
        }
        known = {collection.snapshot for collection in self._collections.values()}
        for file in directory.iterdir():
            if SNAPSHOT.fullmatch(file.name) and file not in known:  # left by a killed process
                file.unlink(missing_ok=True)
        self._reader = threading.local()
        self._connections: set[sqlite3.Connection] = set()
        self._readers = Threads(READERS, "read collections")
        self._column_reader = ThreadPoolExecutor(1, "read columns")
        self._is_open = True
        self._writer = Writer(connection, self._changing, self._tidy)
        self._maintenance = MaintenanceThread(lambda: self._collections.values(), tuning)

    @classmethod
    async def open(cls, directory: Path, tuning: Tuning | None = None) -> SqliteStore:
        """Opens the store in a directory, and creates it if needed.

        Raises ConfigurationError if the directory cannot be used, or another process uses it.
        """
        return await asyncio.to_thread(cls._open, directory, tuning or Tuning())

    @classmethod
    def _open(cls, directory: Path, tuning: Tuning) -> SqliteStore:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = (directory / "lock").open("a")  # the directory may contain another program's file of that name
        except OSError as error:
            raise ConfigurationError(f"{directory} cannot be used for collections: {error}") from None
        try:
            lock_file(lock)
            return cls(directory, lock, database.connect_writer(directory / "collections.db"), tuning)
        except BlockingIOError:
            lock.close()
            raise ConfigurationError(
                f"{directory} is in use by another process; to share collections between gateways, "
                "use milvus://HOST:19530/DATABASE"
            ) from None
        except (sqlite3.Error, OSError) as error:
            lock.close()
            raise ConfigurationError(f"the collections in {directory} cannot be read: {error}") from None
        except BaseException:
            lock.close()
            raise

    @property
    def damaged(self) -> int:
        return sum(collection.damaged for collection in self._collections.values())

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._maintenance.close()
        self._writer.close()
        for collection in self._collections.values():
            collection.save()
        self._readers.close()
        self._column_reader.shutdown()
        for connection in (*self._connections, self._connection):
            connection.close()
        self._lock.close()

    # Changes

    async def create(self, name: str, *, dim: int, fingerprint: str) -> CollectionInfo:
        def work(connection: sqlite3.Connection) -> tuple[None, Follow]:
            stored = database.find_collection(connection, name)
            if stored is None:
                stored = database.create_collection(connection, name, dim, fingerprint)
                index = Index(dim, self._changing, self._tuning)
                collection = OpenCollection(stored, index, self._directory, self._tuning)
                return None, lambda: self._register({name: collection})
            check_kind(name, (stored.dim, stored.fingerprint), (dim, fingerprint))
            return None, _follow_nothing

        await self._write(work)
        return await self.describe(name)

    async def drop(self, name: str) -> None:
        def work(connection: sqlite3.Connection) -> tuple[None, Follow]:
            collection = self._collection(name)
            database.rename_collection(connection, collection.stored.number, None)

            def follow() -> None:
                self._collections = self._remove_name(name)
                collection.snapshot.unlink(missing_ok=True)

            return None, follow

        await self._write(work)

    async def swap(self, name: str, replacement: str) -> None:
        def work(connection: sqlite3.Connection) -> tuple[None, Follow]:
            old, new = self._collection(name), self._collection(replacement)
            database.rename_collection(connection, old.stored.number, None)
            database.rename_collection(connection, new.stored.number, name)

            def follow() -> None:
                new.stored = replace(new.stored, name=name)
                self._collections = self._remove_name(replacement) | {name: new}
                old.snapshot.unlink(missing_ok=True)

            return None, follow

        await self._write(work)

    async def put(self, name: str, items: Sequence[Item]) -> Changes:
        def work(connection: sqlite3.Connection) -> tuple[Changes, Follow]:
            collection = self._collection(name)
            check_dim(name, collection.stored.dim, [item.vector for item in items])
            result = database.put(connection, collection.stored.number, collection.stored.dim, items)

            def follow() -> None:
                # In this order: a search that finds both rows of an item tries again, one that finds neither does not.
                collection.index.add(result.added)
                collection.index.remove(result.removed)
                for row in result.updated:
                    collection.index.update(*row)

            return result.changes, follow

        return await self._write(work)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> tuple[int, Follow]:
            collection = self._collection(name)
            numbers, count = database.find_numbers(connection, collection.stored.number, ids)
            database.delete_rows(connection, collection.stored.number, numbers)
            return count, lambda: collection.index.remove(numbers)

        return await self._write(work)

    async def delete_where(self, name: str, condition: Filter) -> int:
        def work(connection: sqlite3.Connection) -> tuple[int | None, Follow]:
            collection = self._collection(name)
            numbers = collection.index.find_matching(condition, time.time())
            if numbers is None:
                return None, _follow_nothing
            count = database.delete_rows(connection, collection.stored.number, numbers)
            return count, lambda: collection.index.remove(numbers)

        for _ in range(TRIES):
            await self._ensure_columns(name, condition)
            if (count := await self._write(work)) is not None:
                return count
        raise StoreUnavailable("too many concurrent filters over different fields")

    # Reading

    async def list(self) -> Sequence[CollectionInfo]:
        def read(connection: sqlite3.Connection) -> Sequence[CollectionInfo]:
            return [self._describe(connection, *entry) for entry in sorted(self._collections.items())]

        return await self._read(read)

    async def count_collections(self) -> int:
        self._check_open()
        return len(self._collections)

    async def describe(self, name: str) -> CollectionInfo:
        return await self._read(lambda connection: self._describe(connection, name, self._collection(name)))

    async def fingerprint(self, name: str) -> str:
        self._check_open()
        return self._collection(name).stored.fingerprint

    async def get(self, name: str, ids: Sequence[str]) -> dict[str, Item]:
        def read(connection: sqlite3.Connection) -> dict[str, Item]:
            items = database.read_by_id(connection, self._collection(name).stored.number, ids)
            return {item_id: items[item_id] for item_id in ids if item_id in items}

        return await self._read(read)

    async def page(self, name: str, *, after: str | None = None, limit: int, with_vectors: bool = False) -> Page:
        last = None if after is None else _decode_cursor(after)

        def read(connection: sqlite3.Connection) -> Page:
            number = self._collection(name).stored.number
            items = database.read_page(connection, number, last, limit + 1, with_vectors=with_vectors)
            return Page(items[:limit], _encode_cursor(items[limit - 1].id) if len(items) > limit else None)

        return await self._read(read)

    async def search(
        self,
        name: str,
        queries: np.ndarray,
        *,
        top_k: int,
        min_score: float | None = None,
        filter: Filter | None = None,  # noqa: A002 -- as in a request
        with_vectors: bool = False,
    ) -> Sequence[Sequence[Match]]:
        def read(connection: sqlite3.Connection) -> tuple[Sequence[Sequence[Match]], bool]:
            collection = self._collection(name)
            check_dim(name, collection.stored.dim, [queries])
            now = time.time()
            found = [
                collection.index.search(query, top_k=top_k, min_score=min_score, condition=filter, now=now)
                for query in queries
            ]
            rows = [(numbers.tolist(), scores.tolist()) for numbers, scores in (each for each in found if each)]
            wanted = {number for numbers, _ in rows for number in numbers}
            items = database.read_by_number(connection, collection.stored.number, [*wanted], with_vectors=with_vectors)
            matches = [[Match(items[n], score) for n, score in zip(*row, strict=True) if n in items] for row in rows]
            if len(items) == len(wanted) and len(rows) == len(queries):
                return matches, True
            # Rows were replaced after they had been found, or filters over other fields evicted the columns: the next
            # try begins as soon as the index has caught up with the database.
            with self._changing:
                return matches, False

        matches: Sequence[Sequence[Match]] = []
        for _ in range(TRIES):
            if filter:
                await self._ensure_columns(name, filter)
            matches, is_complete = await self._read(read)
            if is_complete:
                break
        return matches

    # Parts of the above

    async def _write(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._writer.submit(work))

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the collections are closed")

    async def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return await self._readers.run(lambda: self._read_in_thread(read))

    def _read_in_thread(self, read: Callable[[sqlite3.Connection], T]) -> T:
        if not hasattr(self._reader, "connection"):
            self._reader.connection = database.connect_reader(self._directory / "collections.db")
            self._connections.add(self._reader.connection)
        try:
            try:
                return read(self._reader.connection)
            except sqlite3.OperationalError:  # its tables may have been dropped after the look-up
                return read(self._reader.connection)
        except sqlite3.Error as error:
            raise translate_error(error) from None

    def _collection(self, name: str) -> OpenCollection:
        if (collection := self._collections.get(name)) is None:
            raise no_collection(name)
        return collection

    def _register(self, collections: dict[str, OpenCollection]) -> None:
        self._collections = self._collections | collections

    def _remove_name(self, name: str) -> dict[str, OpenCollection]:
        return {other: collection for other, collection in self._collections.items() if other != name}

    def _describe(self, connection: sqlite3.Connection, name: str, collection: OpenCollection) -> CollectionInfo:
        stored, count = collection.stored, collection.index.count
        if not collection.is_estimated(count):
            collection.keep_estimate(count, 2 * stored.dim + database.estimate_row_bytes(connection, stored.number))
        size = int(count * collection.row_bytes) + collection.snapshot_bytes
        return CollectionInfo(name, count, stored.dim, stored.fingerprint, size, stored.created_at)

    async def _ensure_columns(self, name: str, condition: Filter) -> None:
        """Reads the fields that are filtered for the first time: 0.2 s for 100,000 items.

        One thread does it for all, so other searches keep theirs, and changes do not wait for it. It stops when the
        caller is cancelled.
        """
        self._check_open()
        if self._collection(name).index.missing_columns(condition):
            stop = threading.Event()
            try:
                await asyncio.get_running_loop().run_in_executor(
                    self._column_reader,
                    self._read_in_thread,
                    lambda connection: self._build_columns(connection, self._collection(name), condition, stop),
                )
            finally:
                stop.set()

    def _build_columns(
        self, connection: sqlite3.Connection, collection: OpenCollection, condition: Filter, stop: threading.Event
    ) -> None:
        index, is_complete = collection.index, False
        with self._changing:
            missing = index.missing_columns(condition)
            if not missing or stop.is_set():
                return
            build = index.begin_columns(missing)
        try:
            rows = database.iterate_metadata(connection, collection.stored.number)
            is_complete = build.read(rows, stop.is_set)
        finally:
            with self._changing:
                index.end_columns(build, is_complete=is_complete)

    def _tidy(self, connection: sqlite3.Connection) -> tuple[bool, Follow]:
        removed = []
        for collection in self._collections.values():
            if numbers := database.find_expired(connection, collection.stored.number):
                database.delete_rows(connection, collection.stored.number, numbers)
                removed.append((collection, numbers))

        def follow() -> None:
            for collection, numbers in removed:
                collection.index.remove(numbers)

        return bool(removed) or database.reclaim_space(connection, self._tuning.pages_at_a_time), follow


def _follow_nothing() -> None: ...


def _encode_cursor(item_id: str) -> str:
    return base64.urlsafe_b64encode(item_id.encode()).decode()


def _decode_cursor(cursor: str) -> str:
    with contextlib.suppress(ValueError):  # invalid base64 and invalid Unicode
        return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode()
    raise invalid_cursor(cursor)
