"""Keeps the names of collections in a Milvus table that all gateways share.

A row maps a name to its owner. An owner's items are rows of a Milvus collection, one for all owners with
the same dimension and fingerprint; each row has the owner's id, not its name. So a swap changes two rows of
this table in one write, and no item. A dropped owner keeps its row until some gateway has removed its items.

The id of a new owner depends only on what is created, so two gateways that create the same collection at the same
moment write the same row. Other gateways' changes are known after `REFRESH_EVERY_S`; an unknown name is
looked up strictly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count as numbers
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from service.errors import StoreUnavailable
from service.stores.base import check_kind, no_collection
from service.stores.milvus.connection import SESSION, STRONG, Connection, NoCollection

TABLE = "danmaku_catalog"
PARTITIONS = [f"part{number}" for number in range(16)]  # owners are spread over them by hash
REFRESH_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A row of the table."""

    id: str
    name: str
    dim: int
    fingerprint: str
    created_at: float  # Unix time, seconds
    dropped_at: float = 0.0

    @property
    def place(self) -> str:
        """The Milvus collection that has its items."""
        letters = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in self.fingerprint)
        return f"danmaku_{self.dim}_{letters}"

    @property
    def partition(self) -> str:
        """Its partition. A partition key would be simpler, but upserts of Milvus 2.3 put rows into wrong partitions."""
        return PARTITIONS[int(self.id, 16) % len(PARTITIONS)]


class Catalog:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._names: dict[str, Owner] = {}
        self._owners: list[Owner] = []
        self._lock = asyncio.Lock()  # of the known rows: a read must not undo a concurrent change

    @property
    def owners(self) -> Sequence[Owner]:
        """All owners known a moment ago, including dropped ones."""
        return self._owners

    async def read(self) -> list[Owner]:
        """Returns the owners of all names, sorted by name."""
        async with self._lock:
            await self._read()
            return sorted(self._names.values(), key=lambda owner: owner.name)

    async def find(self, name: str) -> Owner:
        """Raises NotFound."""
        self._connection.check_open()
        if (owner := self._names.get(name)) is None:
            async with self._lock:
                await self._read()
                owner = self._names.get(name)
        if owner is None:
            raise no_collection(name)
        return owner

    async def refresh(self) -> None:
        async with self._lock:
            await self._read(SESSION)

    async def create(self, name: str, dim: int, fingerprint: str) -> Owner:
        """Returns the owner of the name; makes one if there is none. Raises CollectionExists."""
        async with self._lock:
            await self._read()
            if name not in self._names:
                taken = {owner.id for owner in self._owners}
                tried = (_hash(f"{name} {dim} {fingerprint} {number}") for number in numbers())
                await self._write(
                    [Owner(next(i for i in tried if i not in taken), name, dim, fingerprint, time.time())]
                )
                await self._read()  # another gateway may have been earlier
            owner = self._names[name]
            check_kind(name, (owner.dim, owner.fingerprint), (dim, fingerprint))
            return owner

    async def drop(self, name: str) -> None:
        async with self._lock:
            await self._read()
            await self._write(self._drop(name))

    async def swap(self, name: str, replacement: str) -> None:
        async with self._lock:
            await self._read()
            if replacement not in self._names:
                raise no_collection(replacement)
            await self._write([*self._drop(name), replace(self._names[replacement], name=name)])

    async def forget(self, owner: Owner) -> None:
        """Deletes the row of a dropped owner without items."""
        async with self._lock:
            await self._connection.delete(TABLE, "", f'id == "{owner.id}"')
            self._know([each for each in self._owners if each.id != owner.id])

    async def _read(self, consistency: str = STRONG) -> None:
        try:
            columns = await self._connection.query(TABLE, "", "dim > 0", Owner.__slots__, consistency)
        except NoCollection:
            await self._make()
            columns = {}
        rows = zip(*(columns.get(name, []) for name in Owner.__slots__), strict=True)
        self._know([Owner(*row) for row in rows])

    async def _write(self, changed: Sequence[Owner]) -> None:
        """Writes either all rows or none."""
        columns: dict[str, Any] = {name: [getattr(owner, name) for owner in changed] for name in Owner.__slots__}
        await self._connection.upsert(TABLE, "", columns | {"vector": np.ones((len(changed), 2), np.float32)})
        ids = {owner.id for owner in changed}
        self._know([*(owner for owner in self._owners if owner.id not in ids), *changed])

    def _drop(self, name: str) -> list[Owner]:
        """Returns the rows of a name, marked as dropped: two if two gateways created it with different models."""
        now = time.time()
        if name not in self._names:
            raise no_collection(name)
        return [replace(owner, dropped_at=now) for owner in self._owners if owner.name == name and not owner.dropped_at]

    def _know(self, owners: list[Owner]) -> None:
        live = sorted((o for o in owners if not o.dropped_at), key=lambda o: (o.created_at, o.id), reverse=True)
        self._owners, self._names = owners, {owner.name: owner for owner in live}  # the oldest of a name is the last

    async def _make(self) -> None:
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", DataType.VARCHAR, max_length=32, is_primary=True)
        schema.add_field("name", DataType.VARCHAR, max_length=256)
        schema.add_field("dim", DataType.INT64)
        schema.add_field("fingerprint", DataType.VARCHAR, max_length=256)
        schema.add_field("created_at", DataType.DOUBLE)
        schema.add_field("dropped_at", DataType.DOUBLE)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # unused: Milvus has no table without one
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="IP")
        await make_collection(self._connection, TABLE, schema, index)


async def make_collection(
    connection: Connection, name: str, schema: Any, index: Any, partitions: Sequence[str] = ()
) -> None:
    """Creates a Milvus collection and loads it. Skips steps that are done: another gateway may do the same."""
    try:
        await connection.manage("create_collection", name, schema=schema, num_shards=1)
    except StoreUnavailable:
        if not await connection.manage("has_collection", name):
            raise
    for partition in partitions:
        await connection.manage("create_partition", name, partition)
    await connection.manage("create_index", name, index)
    await connection.manage("load_collection", name)


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=12).hexdigest()
