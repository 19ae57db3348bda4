"""In-memory vector index of one collection, rebuilt from the database, which is the source of truth.

Arrays hold the rows in the order of arrival. The first `graph.size` of them are also in an HNSW graph
(graph.py); the rest, the tail, are compared one by one. So a small collection is all tail and searched exactly, and an
added row is found at once and moves into the graph later, in another thread. Rows that a snapshot lacks, or all rows
without a snapshot, belong to the tail. A removed or expired row is only marked; when too many are, the remaining
rows are copied into new arrays and a new graph, which then replace the old ones.

The graph proposes candidates, and `RowArrays.score` gives their scores from the stored vectors. A sample of the rows
shows what share a filter matches. If that is large, the graph proposes enough candidates for top_k matches to be among
them; if it is small, the filter is evaluated on all rows and its matches are compared one by one.

One thread changes rows, one calls `maintain`, any number search. A search works on the arrays as they were when it
started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numkong
import numpy as np

from service.stores.filters import Filter
from service.stores.sqlite.columns import Column, ColumnBuild, evaluate, list_fields
from service.stores.sqlite.graph import PIECE, Graph
from service.stores.sqlite.tuning import Tuning

CANDIDATES = 64  # requested from the graph; the best of them by exact score are returned
MOST_CANDIDATES = 4096
MARGIN = 5  # candidates beyond top_k, since the graph compares rounded vectors
SAMPLE = np.random.default_rng(0).random(2_048)  # relative positions of the sample that estimates what a filter matches
ROWS_AT_A_TIME = 65_536
ROWS_PER_TURN = 10_000  # added to the graph before other collections get their turn
MAX_COLUMNS = 32
NOT_GONE = np.iinfo(np.int64).max

Metadata = dict[str, Any]


@dataclass(frozen=True)
class RowBatch:
    """Rows to append to an index."""

    numbers: np.ndarray  # [n] int64, ascending, above all earlier ones
    vectors: np.ndarray  # [n, dim] float16
    ends: np.ndarray  # [n] float64: when each row expires, Unix time; infinity: never
    metadata: Sequence[Metadata]


class RowArrays:
    """Arrays with spare capacity. Readers load `size` first: all arrays are at least that long."""

    def __init__(self, dim: int, capacity: int) -> None:
        self.size = self.gone = 0
        self.numbers = np.empty(capacity, np.int64)
        self.vectors = np.empty((capacity, dim), np.float16)
        self.ends = np.empty(capacity, np.float64)
        # The size when the row was removed. A search that began before the row's replacement was added still finds the
        # removed row, misses it in the database and searches again; otherwise it would find neither of the two.
        self.gone_at = np.zeros(capacity, np.int64)
        self.columns: dict[str, Column] = {}

    def append(self, batch: RowBatch) -> None:
        start, size = self.size, self.size + len(batch.numbers)
        if size > len(self.numbers):
            self._grow(max(1024, size + size // 2))
        self.numbers[start:size] = batch.numbers
        self.vectors[start:size] = batch.vectors
        self.ends[start:size] = batch.ends
        self.gone_at[start:size] = NOT_GONE
        for field, column in self.columns.items():
            for position, metadata in enumerate(batch.metadata, start):
                column.set(position, metadata.get(field))
        self.size = size

    def locate(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the positions of rows by number; all of them must be present."""
        return np.searchsorted(self.numbers[: self.size], numbers)

    def locate_present(self, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which of the rows are present, bool [n], and the positions of those."""
        wanted = np.asarray(numbers, np.int64)
        present = self.numbers[: self.size]
        if not self.size:
            return np.zeros(len(wanted), bool), np.zeros(0, np.int64)
        positions = np.minimum(np.searchsorted(present, wanted), self.size - 1)
        is_present = present[positions] == wanted
        return is_present, positions[is_present]

    def select(self, positions: np.ndarray) -> RowArrays:
        """Copies the rows at these positions. Removed ones stay removed."""
        rows = RowArrays(self.vectors.shape[1], len(positions))
        rows.size = len(positions)
        rows.numbers, rows.vectors = self.numbers[positions], self.vectors[positions]
        rows.ends, rows.gone_at = self.ends[positions], self.gone_at[positions]
        rows.gone = int((rows.gone_at < NOT_GONE).sum())
        rows.gone_at[rows.gone_at < NOT_GONE] = 0  # their old values count rows of the larger arrays
        rows.columns = {field: column.select(positions, rows.size) for field, column in self.columns.items()}
        return rows

    def _grow(self, capacity: int) -> None:
        # Into new arrays: running searches keep using the old ones.
        grown = RowArrays(self.vectors.shape[1], capacity)
        for name in ("numbers", "vectors", "ends", "gone_at"):
            getattr(grown, name)[: self.size] = getattr(self, name)[: self.size]
            setattr(self, name, getattr(grown, name))
        everything = np.arange(self.size)
        self.columns = {field: column.select(everything, capacity) for field, column in self.columns.items()}

    def mask(self, rows: np.ndarray | slice, search: _Search) -> np.ndarray:
        """Returns which rows are present, not expired and matched by the filter: bool [n]."""
        live = self._mask_live(rows, search)
        return live & evaluate(search.condition, search.columns, rows, len(live)) if search.condition else live

    def find_matching(self, size: int, search: _Search) -> np.ndarray:
        """Returns the positions below `size` that `mask` would keep; faster than `mask` if they are few."""
        if search.condition:
            (positions,) = np.nonzero(evaluate(search.condition, search.columns, slice(0, size), size))
        else:
            positions = np.arange(size)
        return np.asarray(positions[self._mask_live(positions, search)])

    def _mask_live(self, rows: np.ndarray | slice, search: _Search) -> np.ndarray:
        return np.asarray((self.gone_at[rows] > search.size) & (self.ends[rows] > search.now))

    def score(self, rows: np.ndarray | slice, vector: np.ndarray) -> np.ndarray:
        """Returns the cosine of the rows' vectors with a unit vector [dim] float16: float32 [n]."""
        # "clip" skips numpy's bounds checks, a quarter of the time; all positions are within bounds.
        vectors = self.vectors[rows] if isinstance(rows, slice) else self.vectors.take(rows, axis=0, mode="clip")
        scores = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), ROWS_AT_A_TIME):
            part = slice(start, start + ROWS_AT_A_TIME)
            scores[part] = np.asarray(numkong.cdist(vector[None], vectors[part], metric="dot"))[0]
        return np.clip(scores, -1, 1)


@dataclass(frozen=True)
class _Search:
    """One search, and the state of the rows when it started."""

    vector: np.ndarray  # [dim] float16
    top_k: int
    min_score: float | None
    condition: Filter | None
    columns: dict[str, Column]
    size: int
    now: float


class Index:
    """Rows and their graph. `changing` is held by callers of a method that changes rows, and here while rows move."""

    def __init__(self, dim: int, changing: Lock, tuning: Tuning | None = None) -> None:
        self.dim, self._changing, self._tuning = dim, changing, tuning or Tuning()
        self._state = RowArrays(dim, 0), Graph(dim)
        self._builds: list[ColumnBuild] = []

    @classmethod
    def restore(
        cls, changing: Lock, graph: Graph, known: np.ndarray, rows: RowBatch, tuning: Tuning | None = None
    ) -> Index:
        """Builds an index over all rows of the database; the rows numbered `known` are already in the graph.

        Raises ValueError if the graph belongs to another database.
        """
        dim = rows.vectors.shape[1]
        index = cls(dim, changing, tuning)
        older = int(np.searchsorted(rows.numbers, known[-1:], side="right").sum())  # 0 if none is known
        arrays = RowArrays(dim, len(known) + len(rows.numbers) - older)
        arrays.size = len(known)
        arrays.numbers[: len(known)], arrays.vectors[: len(known)], arrays.ends[: len(known)] = known, 0, math.inf
        at = arrays.locate(rows.numbers[:older])
        if (known[at] != rows.numbers[:older]).any():
            raise ValueError("the snapshot belongs to another database")
        arrays.vectors[at], arrays.ends[at], arrays.gone_at[at] = rows.vectors[:older], rows.ends[:older], NOT_GONE
        arrays.gone = len(known) - older
        arrays.append(RowBatch(rows.numbers[older:], rows.vectors[older:], rows.ends[older:], []))
        index._state = arrays, graph
        return index

    @property
    def count(self) -> int:
        rows, _ = self._state
        return rows.size - rows.gone

    @property
    def progress(self) -> tuple[int, int]:
        """Rows in the graph, and rows in all."""
        rows, graph = self._state
        return graph.size, rows.size

    # Changes: while the caller holds `changing`.

    def add(self, batch: RowBatch) -> None:
        self._state[0].append(batch)
        for build in self._builds:
            for number, metadata in zip(batch.numbers.tolist(), batch.metadata, strict=True):
                build.record(number, metadata)

    def remove(self, numbers: Sequence[int]) -> None:
        """Removes rows; damaged ones were never added."""
        rows, _ = self._state
        _, positions = rows.locate_present(numbers)
        positions = positions[rows.gone_at[positions] == NOT_GONE]
        rows.gone_at[positions] = rows.size
        rows.gone += len(positions)

    def update(self, number: int, end: float, metadata: Metadata) -> None:
        """Changes when a row expires and its metadata; its vector stays."""
        rows, _ = self._state
        (position,) = rows.locate([number])
        for build in self._builds:
            build.record(number, metadata)
        rows.ends[position] = end
        for field, column in rows.columns.items():
            column.set(int(position), metadata.get(field))

    def missing_columns(self, condition: Filter) -> set[str]:
        return list_fields(condition) - self._state[0].columns.keys()

    def begin_columns(self, fields: set[str]) -> ColumnBuild:
        """Begins to build columns for newly filtered fields: until `end_columns`, changes are recorded in the build."""
        build = ColumnBuild(fields)
        self._builds.append(build)
        return build

    def end_columns(self, build: ColumnBuild, *, is_complete: bool) -> None:
        """Adds the columns if all rows have been read."""
        self._builds.remove(build)
        if is_complete:
            rows, _ = self._state
            columns = rows.columns | build.to_columns(rows.locate_present, len(rows.numbers))
            rows.columns = dict(list(columns.items())[-max(MAX_COLUMNS, len(build.fields)) :])

    # Searches: in any thread. They return None if the filter needs columns that are missing.

    def find_matching(self, condition: Filter, now: float) -> list[int] | None:
        """Returns the numbers of the rows that the filter matches."""
        rows, _ = self._state
        everything, columns = slice(0, rows.size), rows.columns
        if list_fields(condition) - columns.keys():
            return None
        search = _Search(np.empty(0), 0, None, condition, columns, rows.size, now)
        return [int(number) for number in rows.numbers[everything][rows.mask(everything, search)]]

    def search(
        self, query: np.ndarray, *, top_k: int, min_score: float | None, condition: Filter | None, now: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the numbers and scores of the rows nearest to a unit vector [dim], best first."""
        rows, graph = self._state
        size, columns = rows.size, rows.columns
        if condition and list_fields(condition) - columns.keys():
            return None
        search = _Search(query.astype(np.float16), top_k, min_score, condition, columns, size, now)
        indexed = min(graph.size, size)
        tail = slice(indexed, size)
        scores = rows.score(tail, search.vector)
        (in_tail,) = np.nonzero(rows.mask(tail, search))
        positions, scores = in_tail + indexed, scores[in_tail]
        if indexed:
            near = self._find_indexed(rows, graph, indexed, search)
            positions = np.concatenate([positions, near])
            scores = np.concatenate([scores, rows.score(near, search.vector)])
        if min_score is not None:
            enough = scores >= min_score
            positions, scores = positions[enough], scores[enough]
        if len(scores) > top_k:
            best = np.argpartition(-scores, top_k)[:top_k]
            positions, scores = positions[best], scores[best]
        order = np.argsort(-scores)
        return rows.numbers[positions[order]], scores[order]

    def _find_indexed(self, rows: RowArrays, graph: Graph, indexed: int, search: _Search) -> np.ndarray:
        """Returns positions below `indexed` that the filter matches, the nearest top_k at least."""
        tuning = self._tuning
        share = rows.mask((SAMPLE * indexed).astype(np.int64), search).mean()
        comparing_us = indexed * (tuning.in_order_us + share * tuning.scattered_us)
        count = max(CANDIDATES, math.ceil((2 * search.top_k + 2 * MARGIN) / max(share, 1 / len(SAMPLE))))
        while count <= MOST_CANDIDATES and count * tuning.candidate_us < comparing_us:
            candidates = graph.find_nearest(search.vector, count)
            candidates = candidates[candidates < indexed]  # the graph may have grown by rows of the tail
            matching = np.asarray(candidates[rows.mask(candidates, search)])
            if len(matching) >= search.top_k + MARGIN:
                return matching
            if search.min_score is not None and (rows.score(candidates, search.vector) < search.min_score).any():
                return matching  # farther ones score no better
            count *= 4  # near rows match the filter less often than the sample did
        return rows.find_matching(indexed, search)

    # Maintenance: in one thread.

    def maintain(self, should_stop: Callable[[], bool]) -> None:
        """Moves rows from the tail into the graph, and compacts the arrays if too many rows are gone."""
        rows, graph = self._state
        exact_up_to = self._tuning.exact_up_to
        if rows.gone > exact_up_to + self.count // 2 or (rows.gone and not self.count):
            self._compact(should_stop)
        elif graph.size or self.count > exact_up_to:
            end = rows.size - self._tuning.tail if graph.size else rows.size
            _extend(graph, rows, np.arange(graph.size, min(end, graph.size + ROWS_PER_TURN)), should_stop)

    def _compact(self, should_stop: Callable[[], bool]) -> None:
        rows, _ = self._state
        size = rows.size
        (staying,) = np.nonzero(rows.gone_at[:size] == NOT_GONE)
        graph = Graph(self.dim)
        if len(staying) > self._tuning.exact_up_to and not _extend(graph, rows, staying, should_stop):
            return
        with self._changing:
            (newer,) = np.nonzero(rows.gone_at[size : rows.size] == NOT_GONE)
            self._state = rows.select(np.concatenate([staying, newer + size])), graph

    def snapshot(self) -> tuple[Graph, np.ndarray]:
        """Returns the graph and the numbers of its rows."""
        rows, graph = self._state
        return graph, rows.numbers[: graph.size]


def _extend(graph: Graph, rows: RowArrays, positions: np.ndarray, should_stop: Callable[[], bool]) -> bool:
    """Appends the rows at these positions to the graph; returns False if it was stopped early."""
    for start in range(0, len(positions), PIECE):
        if should_stop():
            return False
        piece = positions[start : start + PIECE]
        is_present = rows.gone_at[piece] == NOT_GONE
        graph.add(graph.size + np.nonzero(is_present)[0], rows.vectors[piece[is_present]])
        graph.size += len(piece)
    return True
