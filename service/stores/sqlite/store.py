"""The embedded store: a directory with a database, which is the truth, and snapshots of what is derived from it.

    PATH/lock               held by the process that has the directory open
    PATH/collections.db     SQLite, in WAL mode (database.py)
    PATH/3.graph            the graph of collection number 3, as it was a while ago (graph.py)

Three kinds of thread: one writes (writer.py), one tends the indices (tending.py), some read. The event loop only waits.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from service.errors import CollectionExists, ConfigurationError, InvalidRequest, NotFound, StoreUnavailable
from service.stores.base import Changes, CollectionInfo, Item, Match, Page, check_dim
from service.stores.filters import Filter
from service.stores.sqlite import database
from service.stores.sqlite.index import Index
from service.stores.sqlite.maintenance import Collection, Tender
from service.stores.sqlite.writer import Follow, Work, Writer, explained

T = TypeVar("T")

READERS = 4
TRIES = 10  # of a search whose rows are replaced while it looks


class SqliteStore:
    """See `Store`. Made by `open`."""

    def __init__(self, directory: Path, lock: IO[str], connection: sqlite3.Connection) -> None:
        self._directory, self._lock, self._connection = directory, lock, connection
        self._changing = threading.Lock()
        self._collections = {
            row.name: Collection.restored(row, directory, connection, self._changing)
            for row in database.collections(connection)
        }
        known = {collection.snapshot for collection in self._collections.values()}
        for leftover in {*directory.glob("*.graph"), *directory.glob("*.tmp")} - known:  # of a process that was killed
            leftover.unlink(missing_ok=True)
        self._reader = threading.local()
        self._connections: set[sqlite3.Connection] = set()
        self._readers = ThreadPoolExecutor(READERS, "read collections")
        self._is_open = True
        self._writer = Writer(connection, self._changing, self._tidy)
        self._tender = Tender(lambda: self._collections.values())

    @classmethod
    async def open(cls, directory: Path) -> SqliteStore:
        """Raises ConfigurationError if the directory cannot be used, or is used by another process."""
        return await asyncio.to_thread(cls._open, directory)

    @classmethod
    def _open(cls, directory: Path) -> SqliteStore:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = (directory / "lock").open("w")
        except OSError as error:
            raise ConfigurationError(f"{directory} cannot be used for collections: {error}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(directory, lock, database.connect(directory / "collections.db"))
        except BlockingIOError:
            lock.close()
            raise ConfigurationError(
                f"{directory} is in use by another process; several gateways share collections through redis://HOST:PORT"
            ) from None
        except (sqlite3.Error, OSError) as error:
            lock.close()
            raise ConfigurationError(f"the collections in {directory} cannot be read: {error}") from None
        except BaseException:
            lock.close()
            raise

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._tender.close()
        self._writer.close()
        for collection in self._collections.values():
            collection.save()
        self._readers.shutdown()
        for connection in (*self._connections, self._connection):
            connection.close()
        self._lock.close()

    # Changes

    async def create(self, name: str, *, dim: int, fingerprint: str, shards: int | None = None) -> CollectionInfo:
        def work(connection: sqlite3.Connection) -> tuple[None, Follow]:
            there = database.find(connection, name)
            if there is None:
                row = database.create(connection, name, dim, fingerprint)
                made = Collection(row, Index(dim, self._changing), self._directory)
                return None, lambda: self._register({name: made})
            if (there.dim, there.fingerprint) != (dim, fingerprint):
                raise CollectionExists(
                    f"the collection {name} is there, for vectors of {there.dim} numbers and fingerprint "
                    f"{there.fingerprint}, not {dim} and {fingerprint}"
                )
            return None, _nothing

        await self._write(work)
        return await self.describe(name)

    async def drop(self, name: str) -> None:
        def work(connection: sqlite3.Connection) -> tuple[None, Follow]:
            collection = self._collection(name)
            database.rename(connection, collection.row.number, None)

            def follow() -> None:
                self._collections = self._without(name)
                collection.snapshot.unlink(missing_ok=True)

            return None, follow

        await self._write(work)

    async def swap(self, name: str, replacement: str) -> None:
        def work(connection: sqlite3.Connection) -> tuple[None, Follow]:
            old, new = self._collection(name), self._collection(replacement)
            database.rename(connection, old.row.number, None)
            database.rename(connection, new.row.number, name)

            def follow() -> None:
                new.row = replace(new.row, name=name)
                self._collections = self._without(replacement) | {name: new}
                old.snapshot.unlink(missing_ok=True)

            return None, follow

        await self._write(work)

    async def put(self, name: str, items: Sequence[Item]) -> Changes:
        def work(connection: sqlite3.Connection) -> tuple[Changes, Follow]:
            collection = self._collection(name)
            check_dim(name, collection.row.dim, [item.vector for item in items])
            written = database.put(connection, collection.row.number, collection.row.dim, items)

            def follow() -> None:
                # In this order: a search that finds both rows of an item looks again, one that finds neither does not.
                collection.index.add(written.added)
                collection.index.remove(written.removed)
                for row in written.updated:
                    collection.index.update(*row)

            return written.changes, follow

        return await self._write(work)

    async def delete(self, name: str, ids: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> tuple[int, Follow]:
            collection = self._collection(name)
            numbers, there = database.numbers_of(connection, collection.row.number, ids)
            database.delete_rows(connection, collection.row.number, numbers)
            return there, lambda: collection.index.remove(numbers)

        return await self._write(work)

    async def delete_where(self, name: str, filter: Filter) -> int:
        def work(connection: sqlite3.Connection) -> tuple[int | None, Follow]:
            collection = self._collection(name)
            numbers = collection.index.matching(filter, time.time())
            if numbers is None:
                return None, _nothing
            there = database.delete_rows(connection, collection.row.number, numbers)
            return there, lambda: collection.index.remove(numbers)

        for _ in range(TRIES):
            await self._read(lambda connection: self._have_columns(connection, self._collection(name), filter))
            if (there := await self._write(work)) is not None:
                return there
        raise StoreUnavailable("too many filters over different fields at the same time")

    # Reading

    async def list(self) -> Sequence[CollectionInfo]:
        def read(connection: sqlite3.Connection) -> Sequence[CollectionInfo]:
            return [self._info(connection, *named) for named in sorted(self._collections.items())]

        return await self._read(read)

    async def describe(self, name: str) -> CollectionInfo:
        return await self._read(lambda connection: self._info(connection, name, self._collection(name)))

    async def fingerprint(self, name: str) -> str:
        self._check_open()
        return self._collection(name).row.fingerprint

    async def get(self, name: str, ids: Sequence[str]) -> dict[str, Item]:
        def read(connection: sqlite3.Connection) -> dict[str, Item]:
            found = database.by_id(connection, self._collection(name).row.number, ids)
            return {id: found[id] for id in ids if id in found}

        return await self._read(read)

    async def page(self, name: str, *, after: str | None = None, limit: int, with_vectors: bool = False) -> Page:
        last = None if after is None else _id_of(after)

        def read(connection: sqlite3.Connection) -> Page:
            number = self._collection(name).row.number
            items = database.page(connection, number, last, limit + 1, with_vectors=with_vectors)
            return Page(items[:limit], _place_of(items[limit - 1].id) if len(items) > limit else None)

        return await self._read(read)

    async def search(
        self,
        name: str,
        queries: np.ndarray,
        *,
        top_k: int,
        min_score: float | None = None,
        filter: Filter | None = None,
        with_vectors: bool = False,
    ) -> Sequence[Sequence[Match]]:
        def read(connection: sqlite3.Connection) -> Sequence[Sequence[Match]]:
            matches: Sequence[Sequence[Match]] = []
            for _ in range(TRIES):
                collection = self._collection(name)
                check_dim(name, collection.row.dim, [queries])
                if filter:
                    self._have_columns(connection, collection, filter)
                now = time.time()
                found = [
                    collection.index.search(query, top_k=top_k, min_score=min_score, filter=filter, now=now)
                    for query in queries
                ]
                rows = [(numbers.tolist(), scores.tolist()) for numbers, scores in (each for each in found if each)]
                wanted = {number for numbers, _ in rows for number in numbers}
                items = database.by_number(connection, collection.row.number, [*wanted], with_vectors=with_vectors)
                matches = [
                    [Match(items[n], score) for n, score in zip(*row, strict=True) if n in items] for row in rows
                ]
                if len(items) == len(wanted) and len(rows) == len(queries):
                    break
                # Rows were replaced after they had been found, or filters over other fields came between: once more,
                # as soon as the index has followed the database.
                with self._changing:
                    pass
            return matches

        return await self._read(read)

    # What these are made of

    async def _write(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._writer.submit(work))

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the collections are closed")

    async def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_here, read)

    def _read_here(self, read: Callable[[sqlite3.Connection], T]) -> T:
        if not hasattr(self._reader, "connection"):
            self._reader.connection = database.reading(self._directory / "collections.db")
            self._connections.add(self._reader.connection)
        try:
            try:
                return read(self._reader.connection)
            except sqlite3.OperationalError:  # its tables may have been dropped after it was looked up
                return read(self._reader.connection)
        except sqlite3.Error as error:
            raise explained(error) from None

    def _collection(self, name: str) -> Collection:
        if (collection := self._collections.get(name)) is None:
            raise NotFound(f"there is no collection {name}")
        return collection

    def _register(self, collections: dict[str, Collection]) -> None:
        self._collections = self._collections | collections

    def _without(self, name: str) -> dict[str, Collection]:
        return {other: each for other, each in self._collections.items() if other != name}

    def _info(self, connection: sqlite3.Connection, name: str, collection: Collection) -> CollectionInfo:
        row, count = collection.row, collection.index.count
        row_bytes = 2 * row.dim + database.mean_row_bytes(connection, row.number)
        snapshot_bytes = collection.snapshot.stat().st_size if collection.snapshot.exists() else 0
        return CollectionInfo(
            name, count, row.dim, row.fingerprint, int(count * row_bytes) + snapshot_bytes, row.created_at
        )

    def _have_columns(self, connection: sqlite3.Connection, collection: Collection, filter: Filter) -> None:
        """The first filter over a field has it read from the database: 0.2 s for 100,000 items, in which changes
        wait.
        """
        if collection.index.missing_columns(filter):
            with self._changing:
                missing = collection.index.missing_columns(filter)
                collection.index.add_columns(missing, database.all_metadata(connection, collection.row.number))

    def _tidy(self, connection: sqlite3.Connection) -> tuple[bool, Follow]:
        removed = []
        for collection in self._collections.values():
            if numbers := database.expired(connection, collection.row.number):
                database.delete_rows(connection, collection.row.number, numbers)
                removed.append((collection, numbers))

        def follow() -> None:
            for collection, numbers in removed:
                collection.index.remove(numbers)

        return bool(removed) or database.clear_away(connection), follow


def _nothing() -> None: ...


def _place_of(id: str) -> str:
    return base64.urlsafe_b64encode(id.encode()).decode()


def _id_of(place: str) -> str:
    with contextlib.suppress(ValueError):  # which those of base64 and of Unicode are
        return base64.b64decode(place.encode("ascii"), altchars=b"-_", validate=True).decode()
    raise InvalidRequest(f"after: {place[:60]!r} is not the `next` of a page")
