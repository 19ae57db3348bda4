"""Approximate neighbours in large collections: an HNSW graph (usearch) over int8 vectors.

The graph only proposes candidates; scores come from the vectors themselves, so int8 is enough, in some 60 % of the
memory of half precision. It is not quicker for that everywhere. A vector is scaled by its own largest number before it
is rounded, which cosine does not see.

A vector's key is its position among the rows of `index.py`, and nothing is ever taken out: who searches knows which
rows are gone, and a graph with too many of them is built anew. That keeps it free of holes, and its snapshot valid.

usearch lets one call at a time into an index, so vectors are added in small pieces: a search waits for one of them.
But it saves under Python's lock alone, which is why its progress is watched: that lets others have their turn.
"""

# Annotations stay objects in this file: usearch compares those of a function that watches progress with types.

import os
import struct
import time
from pathlib import Path
from typing import Self

import google_crc32c
import numpy as np
from usearch.index import Index

CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 96  # recall@10 of a million: docs/collections.md
PIECE = 4  # vectors added while searches wait: some 3 ms in a graph of a million
PAUSE_S = 50e-6  # for those who wait to get in
FOOTER = struct.Struct("<8sQQI")  # MAGIC, vectors, rows, CRC-32C of all that stands before
MAGIC = b"danmaku1"
CHUNK_BYTES = 2**20


class Graph:
    """Vectors are added by one thread; any may search, and one save at the same time as others search."""

    def __init__(self, dim: int) -> None:
        self._index = Index(
            ndim=dim,
            metric="cos",
            dtype="i8",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        self.size = 0  # all rows below this have been added, or were gone by then

    def add(self, positions: np.ndarray, vectors: np.ndarray) -> None:
        """Vectors [n, dim] float16 at ascending positions, at most PIECE of them."""
        if len(positions):
            self._index.add(positions.astype(np.uint64), _rounded(vectors), threads=1)
            time.sleep(PAUSE_S)

    def nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        """Positions of about the `count` nearest of a vector [dim]: int64, in no order to rely on."""
        found = self._index.search(_rounded(vector[None]), min(count, max(len(self._index), 1)), threads=1)
        return np.asarray(found.keys).astype(np.int64)

    def save(self, path: Path, numbers: np.ndarray) -> None:
        """Writes a snapshot, whole or not at all; `numbers` [size] says which row is at each position."""
        temporary = path.with_suffix(".tmp")
        try:
            self._index.save(str(temporary), progress=_let_others_work)
            with temporary.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(numbers.astype("<i8").tobytes())
                file.flush()
                checksum = _checksum(file.fileno(), file.tell())
                file.write(FOOTER.pack(MAGIC, len(self._index), len(numbers), checksum))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, dim: int) -> tuple[Self, np.ndarray]:
        """The graph of a snapshot, and the numbers of its rows. Raises ValueError if it is damaged."""
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - FOOTER.size
            if size < 0:
                raise ValueError(f"{path} has {size + FOOTER.size} bytes")
            file.seek(size)
            magic, vectors, rows, checksum = FOOTER.unpack(file.read())
            if magic != MAGIC or checksum != _checksum(file.fileno(), size):
                raise ValueError(f"{path} is not as it was written")
            file.seek(size - 8 * rows)
            numbers = np.frombuffer(file.read(8 * rows), "<i8").astype(np.int64)
        graph = cls(dim)
        graph._index.load(str(path), progress=_let_others_work)
        if graph._index.ndim != dim or len(graph._index) != vectors:
            raise ValueError(f"{path} has {len(graph._index)} vectors of {graph._index.ndim}, not {vectors} of {dim}")
        graph.size = rows
        return graph, numbers


def _rounded(vectors: np.ndarray) -> np.ndarray:
    """int8 [n, dim], each row as large as it can be."""
    numbers = vectors.astype(np.float32)
    largest = np.abs(numbers).max(axis=1, keepdims=True)
    return np.rint(numbers * (127 / np.where(largest == 0, 1, largest))).astype(np.int8)


def _checksum(file: int, size: int) -> int:
    checksum = google_crc32c.Checksum()
    for start in range(0, size, CHUNK_BYTES):
        checksum.update(os.pread(file, min(CHUNK_BYTES, size - start), start))
    return int.from_bytes(checksum.digest(), "big")


def _let_others_work(done: int, total: int) -> bool:
    if done % 1024 == 0:
        time.sleep(0)
    return True
