"""Converts items to rows of Milvus and back.

A row's key is a hash of the owner and the item's id. So keys need no quotes, and are evenly spread: a page reads the
range of keys that should contain as many rows as it needs, because Milvus returns rows in no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson
from pymilvus import DataType, MilvusClient

from service.errors import InvalidRequest
from service.stores.base import Item
from service.stores.milvus.columns import Columns
from service.stores.milvus.filter import list_numbers, list_tokens

NEVER = 1e15  # when items without an expiry expire, Unix time: millions of years ahead
KEYS = 2**128
MAX_BYTES = 65_535  # of a string in Milvus
MAX_FIELDS = 4096
FIELDS = ["id", "text", "metadata", "count", "expires_at"]


def make_schema(dim: int) -> Any:
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("key", DataType.VARCHAR, max_length=32, is_primary=True)
    schema.add_field("owner", DataType.VARCHAR, max_length=32)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    for name in ("id", "text", "metadata"):
        schema.add_field(name, DataType.VARCHAR, max_length=MAX_BYTES)
    schema.add_field("count", DataType.INT64)
    schema.add_field("expires_at", DataType.DOUBLE)
    schema.add_field("put_at", DataType.DOUBLE)
    schema.add_field("tokens", DataType.ARRAY, element_type=DataType.INT64, max_capacity=MAX_FIELDS)
    schema.add_field("numbers", DataType.JSON)
    return schema


def make_index() -> Any:
    """Returns HNSW with links as in the embedded store, and the scalar indexes that each release chooses itself."""
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="IP", params={"M": 16, "efConstruction": 128})
    index.add_index("owner")
    index.add_index("expires_at")
    return index


def make_key(owner: str, item_id: str) -> str:
    return blake2b(f"{owner} {item_id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_key(number: int) -> str:
    return f"{number:032x}"


def to_columns(owner: str, keys: Sequence[str], items: Sequence[Item], counts: Sequence[int], put_at: float) -> Columns:
    """Raises InvalidRequest if a string is too long for Milvus."""
    strings: Columns = {
        "id": [item.id for item in items],
        "text": [item.text for item in items],
        "metadata": [orjson.dumps(item.metadata).decode() for item in items],
    }
    for name, values in strings.items():
        longest = max(len(value.encode()) for value in values)
        if longest > MAX_BYTES:
            raise InvalidRequest(f"invalid {name}: {longest} bytes; expected at most {MAX_BYTES} in Milvus")
    return {
        **strings,
        "key": keys,
        "owner": [owner] * len(items),
        "vector": np.array([item.vector for item in items], np.float32),
        "count": counts,
        "expires_at": [NEVER if item.expires_at is None else float(item.expires_at) for item in items],
        "put_at": [put_at] * len(items),
        "tokens": [list_tokens(item.metadata) for item in items],
        "numbers": [orjson.dumps(list_numbers(item.metadata)) for item in items],
    }


def to_items(columns: Columns) -> list[Item]:
    """Returns the items of rows with the columns of FIELDS, and vectors if there are any."""
    vectors = columns.get("vector")
    return [
        Item(
            item_id,
            text,
            None if vectors is None else vectors[row],
            orjson.loads(metadata),
            None if expires_at == NEVER else expires_at,
            count,
        )
        for row, (item_id, text, metadata, count, expires_at) in enumerate(
            zip(*(columns[name] for name in FIELDS), strict=True)
        )
    ]
