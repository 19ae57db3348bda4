"""Finds approximate neighbours in large collections with an HNSW graph (usearch) over int8 vectors.

The graph only proposes candidates. Scores come from the vectors themselves, so int8 is precise enough; it takes about
60 % of the memory of half precision, but is not faster everywhere. Each vector is scaled by its own largest number
before rounding, which does not change the cosine.

A vector's key is its position among the rows of `index.py`. Nothing is ever removed: the index knows which rows are
gone, and rebuilds a graph with too many of them. So the graph has no holes and its snapshots stay valid.

usearch runs one call on an index at a time, so vectors are added in small pieces: a search waits for one piece at most.
Saving holds Python's lock throughout, so the progress callback releases it from time to time.
"""

# No `from __future__ import annotations` here: usearch checks the annotations of a progress callback against types.

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import google_crc32c
import numpy as np
from usearch.index import Index

CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 96  # recall@10 of a million: docs/collections.md
PIECE = 4  # vectors added while searches wait: about 3 ms in a graph of a million
PAUSE_S = 50e-6  # lets waiting searches in
FOOTER = struct.Struct("<8sQQI")  # MAGIC, vectors, rows, CRC-32C of everything before it
MAGIC = b"danmaku1"
CHUNK_BYTES = 2**20


def _release_interpreter(done: int, total: int) -> bool:
    if done % 1024 == 0:
        time.sleep(0)
    return True


class Graph:
    """An HNSW index: one thread adds vectors, any number search, and one may save while others search."""

    def __init__(self, dim: int) -> None:
        self._index = Index(
            ndim=dim,
            metric="cos",
            dtype="i8",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        self.size = 0  # all rows below this were added, or were gone by then

    def add(self, positions: np.ndarray, vectors: np.ndarray) -> None:
        """Adds at most PIECE vectors [n, dim] float16 at ascending positions."""
        if len(positions):
            self._index.add(positions.astype(np.uint64), _round(vectors), threads=1)
            time.sleep(PAUSE_S)

    def find_nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        """Returns the positions of about the `count` nearest of a vector [dim]: int64, in no defined order."""
        found = self._index.search(_round(vector[None]), min(count, max(len(self._index), 1)), threads=1)
        return np.asarray(found.keys).astype(np.int64)

    def save(
        self, path: Path, numbers: np.ndarray, on_progress: Callable[[int, int], bool] = _release_interpreter
    ) -> None:
        """Writes a snapshot atomically; `numbers` [size] says which row is at each position."""
        temporary = path.with_suffix(".tmp")
        try:
            self._index.save(str(temporary), progress=on_progress)
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
        """Reads a snapshot: the graph and the numbers of its rows. Raises ValueError if it is damaged."""
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - FOOTER.size
            if size < 0:
                raise ValueError(f"{path} has {size + FOOTER.size} bytes; expected at least {FOOTER.size}")
            file.seek(size)
            magic, vectors, rows, checksum = FOOTER.unpack(file.read())
            if magic != MAGIC or checksum != _checksum(file.fileno(), size):
                raise ValueError(f"{path} is damaged: its checksum is wrong")
            file.seek(size - 8 * rows)
            numbers = np.frombuffer(file.read(8 * rows), "<i8").astype(np.int64)
        graph = cls(dim)
        graph._index.load(str(path), progress=_release_interpreter)
        if graph._index.ndim != dim or len(graph._index) != vectors:
            found = f"{len(graph._index)} vectors of {graph._index.ndim} numbers"
            raise ValueError(f"{path} has {found}; expected {vectors} of {dim}")
        graph.size = rows
        return graph, numbers


def _round(vectors: np.ndarray) -> np.ndarray:
    """Quantises to int8 [n, dim], each row scaled to the full range."""
    numbers = vectors.astype(np.float32)
    largest = np.abs(numbers).max(axis=1, keepdims=True)
    return np.rint(numbers * (127 / np.where(largest == 0, 1, largest))).astype(np.int8)


def _checksum(file: int, size: int) -> int:
    checksum = google_crc32c.Checksum()
    for start in range(0, size, CHUNK_BYTES):
        checksum.update(os.pread(file, min(CHUNK_BYTES, size - start), start))
    return int.from_bytes(checksum.digest(), "big")
