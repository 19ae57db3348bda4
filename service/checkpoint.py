"""Reads TensorFlow checkpoints without TensorFlow.

Google's weights, the checkpoints of `danmaku-train` and those that bert-as-service loads share one format, the "tensor
bundle", so a model directory needs no conversion and no second copy of its weights for serving. It has two kinds of
file:

    PREFIX.data-00000-of-00001   the tensors' bytes, one after the other
    PREFIX.index                 a sorted string table (LevelDB's): tensor name → the place of its bytes

Data files are mapped into memory instead of read, so unused tensors, such as an optimizer's, cost nothing, and the
system can reclaim the memory of tensors that were read.

Source: tensorflow/core/util/tensor_bundle (tensor_bundle.h describes both files), tensorflow/core/lib/io/format.h
and table_format.txt (the table), tensorflow/core/protobuf/tensor_bundle.proto (the values in the table).
Only the parts that BERT's checkpoints use are supported: unpartitioned numeric tensors, little-endian, uncompressed
tables.
"""

from __future__ import annotations

import mmap
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
# tensorflow/core/framework/types.proto; tensors of other types (strings) are skipped.
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(code) for number, code in ((1, "<f4"), (2, "<f8"), (3, "<i4"), (9, "<i8"), (19, "<f2"))
}

Fields = dict[int, list[int | bytes]]  # of a protocol buffer: field number → values, in order


@dataclass(frozen=True)
class _Entry:
    """The place of a tensor: BundleEntryProto."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int
    is_sliced: bool


def read_checkpoint(prefix: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Returns the numeric tensors of a checkpoint by name: all of them, or those in `names`.

    `prefix` is the path without `.index`. The arrays are read-only views of the mapped data files.

    Raises ModelError that names the file if one is missing, cut off, damaged or in another format.
    """
    index = prefix.with_name(prefix.name + ".index")
    header, entries = _read_index(index)
    num_shards = _int(header, 1, default=1)
    shards = [
        _map(prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{num_shards:05}")) for shard in range(num_shards)
    ]
    tensors = {}
    for name, entry in entries.items():
        if entry.dtype not in DTYPES or (names is not None and name not in names):
            continue
        if entry.is_sliced:
            raise ModelError(f"{prefix}.index: {name} is stored in slices; save the checkpoint without partitioning")
        data = shards[entry.shard][entry.offset : entry.offset + entry.size]
        expected = int(np.prod(entry.shape, dtype=np.int64)) * DTYPES[entry.dtype].itemsize
        if not len(data) == entry.size == expected or _masked_crc32c(data) != entry.crc32c:
            raise ModelError(
                f"{prefix}.data-*: the bytes of {name} are damaged or cut off ({len(data)} of {expected}); "
                "copy the checkpoint again"
            )
        tensor = data.view(DTYPES[entry.dtype]).reshape(entry.shape)
        tensors[name] = np.require(tensor, requirements=["ALIGNED"])  # a copy if a string precedes it in the file
    return tensors


def is_mapped(tensor: np.ndarray) -> bool:
    """Returns whether a tensor's bytes are those of a mapped file."""
    return _find_mapping(tensor) is not None


def release_pages(tensor: np.ndarray) -> None:
    """Returns the memory of the mapped file that a tensor is from, if it is from one; reading it again takes longer."""
    mapping = _find_mapping(tensor)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapping.madvise(mmap.MADV_DONTNEED)


def _find_mapping(tensor: np.ndarray) -> mmap.mmap | None:
    base: object = tensor
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _read_index(path: Path) -> tuple[Fields, dict[str, _Entry]]:
    try:
        table = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    if len(table) < FOOTER_SIZE or int.from_bytes(table[-8:], "little") != MAGIC:
        raise ModelError(f"{path} is not the index of a TensorFlow checkpoint (it does not end with the magic number)")
    try:
        footer = table[-FOOTER_SIZE:]
        _, position = _read_handle(footer, 0)  # of the metaindex, which is always empty
        (offset, size), _ = _read_handle(footer, position)
        header: Fields = {}
        entries = {}
        for _, handle in _read_block(path, table, offset, size):
            (offset, size), _ = _read_handle(handle, 0)
            for key, value in _read_block(path, table, offset, size):
                if key:
                    entries[key.decode()] = _parse_entry(value)
                else:  # the first key is empty, its value a BundleHeaderProto
                    header = _parse_message(value)
    except ModelError:
        raise
    except (IndexError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None
    if _int(header, 2, default=0) != 0:
        raise ModelError(f"{path} is big-endian; only little-endian checkpoints can be read")
    return header, entries


def _parse_entry(value: bytes) -> _Entry:
    fields = _parse_message(value)
    shape = _parse_message(_bytes(fields, 2))
    dims = tuple(_int(_parse_message(dim), 1, default=0) for dim in shape.get(2, []) if isinstance(dim, bytes))
    return _Entry(
        _int(fields, 1, default=0),
        dims,
        _int(fields, 3, default=0),
        _int(fields, 4, default=0),
        _int(fields, 5, default=0),
        _int(fields, 6, default=0),
        is_sliced=7 in fields,
    )


def _read_block(path: Path, table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block. A key is stored as the length of the prefix it shares with the last key,
    and the rest.
    """
    block, trailer = table[offset : offset + size], table[offset + size : offset + size + BLOCK_TRAILER_SIZE]
    if _masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError("a block's checksum is wrong")
    if trailer[0] != 0:
        raise ModelError(f"{path} is compressed; write the checkpoint again with TensorFlow 1.4 or newer")
    num_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (num_restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _read_varint(block, position)
        unshared, position = _read_varint(block, position)
        length, position = _read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _parse_message(message: bytes) -> Fields:
    """Parses a protocol buffer message without its schema (protobuf.dev/programming-guides/encoding)."""
    fields: Fields = {}
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        value: int | bytes
        match tag & 7:
            case 0:
                value, position = _read_varint(message, position)
            case 1:
                value, position = int.from_bytes(message[position : position + 8], "little"), position + 8
            case 2:
                length, position = _read_varint(message, position)
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


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Returns (offset, size) of a block, and the position of the next value."""
    offset, position = _read_varint(data, position)
    size, position = _read_varint(data, position)
    return (offset, size), position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7


def _masked_crc32c(data: bytes | np.ndarray) -> int:
    """Computes CRC-32C, rotated and offset so that checksums of checksums are not weak (LevelDB's crc32c.h)."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _map(path: Path) -> np.ndarray:
    """Maps a file as read-only bytes [size] uint8; reads one that is not local, such as an object of a bucket."""
    try:
        if not isinstance(path, Path):
            return np.frombuffer(path.read_bytes(), np.uint8)
        size = path.stat().st_size
        return np.asarray(np.memmap(path, np.uint8, "r")) if size else np.empty(0, np.uint8)  # mmap refuses size 0
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
