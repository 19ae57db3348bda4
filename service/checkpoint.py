"""Reads TensorFlow checkpoints without TensorFlow.

Google's weights, what `danmaku-train` writes and what bert-as-service loads are one format, the "tensor bundle": so a
model directory needs no second copy of its weights for serving, and no conversion step. Two kinds of file:

    PREFIX.data-00000-of-00001   the tensors' bytes, one after the other
    PREFIX.index                 a sorted string table (LevelDB's): tensor name → where its bytes are

Source: tensorflow/core/util/tensor_bundle (tensor_bundle.h describes both files), tensorflow/core/lib/io/format.h
and table_format.txt (the table), tensorflow/core/protobuf/tensor_bundle.proto (the values in the table).
Only what BERT's checkpoints use is read: unpartitioned numeric tensors, little-endian, uncompressed tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from service.errors import ModelError

MAGIC = 0xDB4775248B80FB57
FOOTER_SIZE = 48  # two block handles padded to 40 bytes, then the magic number
BLOCK_TRAILER_SIZE = 5  # compression type, masked CRC-32C
# tensorflow/core/framework/types.proto; other types (strings) are passed over.
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(code) for number, code in ((1, "<f4"), (2, "<f8"), (3, "<i4"), (9, "<i8"), (19, "<f2"))
}

Fields = dict[int, list[int | bytes]]  # of a protocol buffer: field number → values, in order


@dataclass(frozen=True)
class _Entry:
    """Where a tensor is: BundleEntryProto."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int
    is_sliced: bool


def read_checkpoint(prefix: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The numeric tensors of a checkpoint by name: all, or those of `names` that there are.

    `prefix` is the path without `.index`.

    Raises ModelError, naming the file, if one is missing, cut off, damaged or of another format.
    """
    index = prefix.with_name(prefix.name + ".index")
    header, entries = _read_index(index)
    num_shards = _int(header, 1, default=1)
    shards = [
        _read(prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{num_shards:05}")) for shard in range(num_shards)
    ]
    tensors = {}
    for name, entry in entries.items():
        if entry.dtype not in DTYPES or (names is not None and name not in names):
            continue
        if entry.is_sliced:
            raise ModelError(f"{prefix}.index: {name} is stored in slices; save the checkpoint without partitioning")
        shard = memoryview(shards[entry.shard])
        data = bytes(shard[entry.offset : entry.offset + entry.size])
        expected = int(np.prod(entry.shape, dtype=np.int64)) * DTYPES[entry.dtype].itemsize
        if not len(data) == entry.size == expected or _masked_crc32c(data) != entry.crc32c:
            raise ModelError(
                f"{prefix}.data-*: the bytes of {name} are damaged or cut off ({len(data)} of {expected}); "
                "copy the checkpoint again"
            )
        tensors[name] = np.frombuffer(data, DTYPES[entry.dtype]).reshape(entry.shape)
    return tensors


def _read_index(path: Path) -> tuple[Fields, dict[str, _Entry]]:
    table = _read(path)
    if len(table) < FOOTER_SIZE or int.from_bytes(table[-8:], "little") != MAGIC:
        raise ModelError(f"{path} is not the index of a TensorFlow checkpoint (its last 8 bytes are not the format's)")
    try:
        footer = table[-FOOTER_SIZE:]
        _, position = _handle(footer, 0)  # of the metaindex, which is always empty
        (offset, size), _ = _handle(footer, position)
        header: Fields = {}
        entries = {}
        for _, handle in _block(path, table, offset, size):
            (offset, size), _ = _handle(handle, 0)
            for key, value in _block(path, table, offset, size):
                if key:
                    entries[key.decode()] = _entry(value)
                else:  # the first key is empty, its value a BundleHeaderProto
                    header = _fields(value)
    except ModelError:
        raise
    except (IndexError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None
    if _int(header, 2, default=0) != 0:
        raise ModelError(f"{path} is big-endian; only little-endian checkpoints can be read")
    return header, entries


def _entry(value: bytes) -> _Entry:
    fields = _fields(value)
    shape = _fields(_bytes(fields, 2))
    dims = tuple(_int(_fields(dim), 1, default=0) for dim in shape.get(2, []) if isinstance(dim, bytes))
    return _Entry(
        _int(fields, 1, default=0),
        dims,
        _int(fields, 3, default=0),
        _int(fields, 4, default=0),
        _int(fields, 5, default=0),
        _int(fields, 6, default=0),
        is_sliced=7 in fields,
    )


def _block(path: Path, table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block; a key is stored as what it shares with the one before, and the rest."""
    block, trailer = table[offset : offset + size], table[offset + size : offset + size + BLOCK_TRAILER_SIZE]
    if _masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError("a block's checksum is wrong")
    if trailer[0] != 0:
        raise ModelError(f"{path} is compressed; write the checkpoint again with TensorFlow 1.4 or newer")
    num_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (num_restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _fields(message: bytes) -> Fields:
    """A protocol buffer message without its schema (protobuf.dev/programming-guides/encoding)."""
    fields: Fields = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: int | bytes
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
            case 1:
                value, position = int.from_bytes(message[position : position + 8], "little"), position + 8
            case 2:
                length, position = _varint(message, position)
                value, position = message[position : position + length], position + length
            case 5:
                value, position = int.from_bytes(message[position : position + 4], "little"), position + 4
            case other:
                raise ValueError(f"unknown wire type {other}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _int(fields: Fields, number: int, *, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not a number")
    return value


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is not a message")
    return value


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """((offset, size) of a block, where the next value starts)."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7


def _masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and offset so that a checksum of data that holds checksums is not weak (LevelDB's crc32c.h)."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
