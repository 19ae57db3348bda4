"""Where the vectors of one collection are searched: in memory, derived from the database, and as right as it is.

Rows stand in arrays in the order in which they came. The first of them, up to the size of the graph, are also in an
HNSW graph (graph.py); the rest, the tail, are compared one by one. So a small collection is all tail and searched
exactly; an added row is found at once and moves into the graph later, in another thread; and what a snapshot does not
know, or all of it where there is none, is simply tail. A row that is removed or expired only leaves a mark; when too
many have, the rows that are left make new arrays and a new graph, aside.

Scores are always those of the stored vectors: the graph proposes, and `_Rows.scores` disposes. How much a filter keeps
is told by a sample of the rows. Where it is much, the graph proposes so many that enough of them are kept; where it is
little, all rows are asked, and those that it keeps compared one by one.

One thread makes changes, one calls `tend`, any number search: a search takes the arrays as they are when it starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numkong
import numpy as np

from service.stores.filters import Filter
from service.stores.sqlite.columns import Column, evaluate, fields_of
from service.stores.sqlite.graph import PIECE, Graph

# Here comparing all took 0.36 ms and a graph 0.26; at twice as many 0.77 and 0.36 (benchmarks/stores.py --threshold).
EXACT_UP_TO = 10_000
TAIL = 1_000  # rows that may wait to get into the graph: compared in some 30 µs
CANDIDATES = 64  # from the graph, of which the best by their real scores are taken
MOST_CANDIDATES = 4096
MARGIN = 5  # more than are asked for, since the graph sees rounded vectors
SAMPLE = np.random.default_rng(0).random(2_048)  # where the rows stand that tell how many a filter keeps
# About what a search costs, µs: a row that a filter is asked about; a row compared, scattered among others; a candidate
# of the graph. Only a choice between ways to the same answer hangs on them.
IN_ORDER_US, SCATTERED_US, CANDIDATE_US = 0.0005, 0.1, 3.5
ROWS_AT_A_TIME = 65_536
ROWS_A_TURN = 10_000  # into the graph, before other collections have theirs
MAX_COLUMNS = 32
NOT_GONE = np.iinfo(np.int64).max

Metadata = dict[str, Any]


@dataclass(frozen=True)
class NewRows:
    numbers: np.ndarray  # [n] int64, ascending, above all that were there
    vectors: np.ndarray  # [n, dim] float16
    ends: np.ndarray  # [n] float64: when each expires, Unix time; infinity: never
    metadata: Sequence[Metadata]


class _Rows:
    """Arrays with room at the end. A reader looks at `size` first: all arrays are at least that long."""

    def __init__(self, dim: int, capacity: int) -> None:
        self.size = self.gone = 0
        self.numbers = np.empty(capacity, np.int64)
        self.vectors = np.empty((capacity, dim), np.float16)
        self.ends = np.empty(capacity, np.float64)
        # The size when the row was removed. A search that began before its replacement was added still finds it so, and
        # then finds in the database that it has to look again; otherwise it would find neither.
        self.gone_at = np.zeros(capacity, np.int64)
        self.columns: dict[str, Column] = {}

    def append(self, new: NewRows) -> None:
        start, size = self.size, self.size + len(new.numbers)
        if size > len(self.numbers):
            self._grow(max(1024, size + size // 2))
        self.numbers[start:size] = new.numbers
        self.vectors[start:size] = new.vectors
        self.ends[start:size] = new.ends
        self.gone_at[start:size] = NOT_GONE
        for field, column in self.columns.items():
            for position, metadata in enumerate(new.metadata, start):
                column.set(position, metadata.get(field))
        self.size = size

    def positions(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where rows of these numbers stand, all of which must be there."""
        return np.searchsorted(self.numbers[: self.size], numbers)

    def taken(self, positions: np.ndarray) -> _Rows:
        """Those rows alone."""
        rows = _Rows(self.vectors.shape[1], len(positions))
        rows.size = len(positions)
        rows.numbers, rows.vectors = self.numbers[positions], self.vectors[positions]
        rows.ends, rows.gone_at = self.ends[positions], self.gone_at[positions]
        rows.gone = int((rows.gone_at < NOT_GONE).sum())
        rows.gone_at[rows.gone_at < NOT_GONE] = 0
        rows.columns = {field: column.taken(positions, rows.size) for field, column in self.columns.items()}
        return rows

    def _grow(self, capacity: int) -> None:
        # Into new arrays: whoever searches goes on in the old ones.
        grown = _Rows(self.vectors.shape[1], capacity)
        for name in ("numbers", "vectors", "ends", "gone_at"):
            getattr(grown, name)[: self.size] = getattr(self, name)[: self.size]
            setattr(self, name, getattr(grown, name))
        everything = np.arange(self.size)
        self.columns = {field: column.taken(everything, capacity) for field, column in self.columns.items()}

    def kept(self, rows: np.ndarray | slice, asked: _Asked) -> np.ndarray:
        """Which of the rows are there, not expired and kept by the filter: bool [n]."""
        kept = self._are_there(rows, asked)
        return kept & evaluate(asked.filter, asked.columns, rows, len(kept)) if asked.filter else kept

    def matching(self, size: int, asked: _Asked) -> np.ndarray:
        """Positions of those among the first `size` that `kept` has; quicker where they are few."""
        if asked.filter:
            (positions,) = np.nonzero(evaluate(asked.filter, asked.columns, slice(0, size), size))
        else:
            positions = np.arange(size)
        return np.asarray(positions[self._are_there(positions, asked)])

    def _are_there(self, rows: np.ndarray | slice, asked: _Asked) -> np.ndarray:
        return np.asarray((self.gone_at[rows] > asked.size) & (self.ends[rows] > asked.now))

    def scores(self, rows: np.ndarray | slice, vector: np.ndarray) -> np.ndarray:
        """Cosine of the rows' vectors with a vector [dim] float16: float32 [n]."""
        # "clip" spares numpy's checks of bounds, which all are within: a quarter of the time.
        vectors = self.vectors[rows] if isinstance(rows, slice) else self.vectors.take(rows, axis=0, mode="clip")
        scores = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), ROWS_AT_A_TIME):
            part = slice(start, start + ROWS_AT_A_TIME)
            scores[part] = np.asarray(numkong.cdist(vector[None], vectors[part], metric="dot"))[0]
        return np.clip(scores, -1, 1)


@dataclass(frozen=True)
class _Asked:
    """What a search is for."""

    vector: np.ndarray  # [dim] float16
    top_k: int
    min_score: float | None
    filter: Filter | None
    # As they are when the search starts:
    columns: dict[str, Column]
    size: int
    now: float


class Index:
    """`changing` is held by whoever calls a method that changes rows, and here while rows change places."""

    def __init__(self, dim: int, changing: Lock) -> None:
        self.dim, self._changing = dim, changing
        self._state = _Rows(dim, 0), Graph(dim)

    @classmethod
    def restored(cls, dim: int, changing: Lock, graph: Graph, known: np.ndarray, rows: NewRows) -> Index:
        """Of the rows of the database, those of the numbers `known` being in a graph. Raises ValueError if they cannot
        be, because the graph is of another database.
        """
        index = cls(dim, changing)
        older = int(np.searchsorted(rows.numbers, known[-1:], side="right").sum())  # 0 if none is known
        arrays = _Rows(dim, len(known) + len(rows.numbers) - older)
        arrays.size = len(known)
        arrays.numbers[: len(known)], arrays.vectors[: len(known)], arrays.ends[: len(known)] = known, 0, math.inf
        at = arrays.positions(rows.numbers[:older])
        if (known[at] != rows.numbers[:older]).any():
            raise ValueError("the snapshot is not of this database")
        arrays.vectors[at], arrays.ends[at], arrays.gone_at[at] = rows.vectors[:older], rows.ends[:older], NOT_GONE
        arrays.gone = len(known) - older
        arrays.append(NewRows(rows.numbers[older:], rows.vectors[older:], rows.ends[older:], []))
        index._state = arrays, graph
        return index

    @property
    def count(self) -> int:
        rows, _ = self._state
        return rows.size - rows.gone

    @property
    def progress(self) -> tuple[int, int]:
        """Rows in the graph, and rows."""
        rows, graph = self._state
        return graph.size, rows.size

    # Changes: while the caller holds `changing`.

    def add(self, new: NewRows) -> None:
        self._state[0].append(new)

    def remove(self, numbers: Sequence[int]) -> None:
        rows, _ = self._state
        positions = rows.positions(numbers)
        positions = positions[rows.gone_at[positions] == NOT_GONE]
        rows.gone_at[positions] = rows.size
        rows.gone += len(positions)

    def update(self, number: int, end: float, metadata: Metadata) -> None:
        """The row keeps its vector."""
        rows, _ = self._state
        (position,) = rows.positions([number])
        rows.ends[position] = end
        for field, column in rows.columns.items():
            column.set(int(position), metadata.get(field))

    def missing_columns(self, filter: Filter) -> set[str]:
        return fields_of(filter) - self._state[0].columns.keys()

    def add_columns(self, fields: set[str], metadata: Iterable[tuple[int, Metadata]]) -> None:
        """For filters over fields that none has asked for so far; `metadata` by number, of all rows."""
        rows, _ = self._state
        values: dict[str, list[Any]] = {field: [] for field in fields}
        numbers = []
        for number, fields_there in metadata:
            numbers.append(number)
            for field, of_field in values.items():
                of_field.append(fields_there.get(field))
        positions = rows.positions(numbers).tolist()
        columns = list(rows.columns.items())
        for field, of_field in values.items():
            column = Column(len(rows.numbers))
            for position, value in zip(positions, of_field, strict=True):
                column.set(position, value)
            columns.append((field, column))
        rows.columns = dict(columns[-max(MAX_COLUMNS, len(fields)) :])

    # Searches: in any thread. They give None if the filter asks for columns that are not there.

    def matching(self, filter: Filter, now: float) -> list[int] | None:
        """Numbers of the rows that a filter keeps."""
        rows, _ = self._state
        everything, columns = slice(0, rows.size), rows.columns
        if fields_of(filter) - columns.keys():
            return None
        asked = _Asked(np.empty(0), 0, None, filter, columns, rows.size, now)
        return [int(number) for number in rows.numbers[everything][rows.kept(everything, asked)]]

    def search(
        self, query: np.ndarray, *, top_k: int, min_score: float | None, filter: Filter | None, now: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Numbers and scores of the rows nearest to a unit vector [dim], best first."""
        rows, graph = self._state
        size, columns = rows.size, rows.columns
        if filter and fields_of(filter) - columns.keys():
            return None
        asked = _Asked(query.astype(np.float16), top_k, min_score, filter, columns, size, now)
        indexed = min(graph.size, size)
        tail = slice(indexed, size)
        scores = rows.scores(tail, asked.vector)
        (in_tail,) = np.nonzero(rows.kept(tail, asked))
        positions, scores = in_tail + indexed, scores[in_tail]
        if indexed:
            known = _nearest_known(rows, graph, indexed, asked)
            positions = np.concatenate([positions, known])
            scores = np.concatenate([scores, rows.scores(known, asked.vector)])
        if min_score is not None:
            enough = scores >= min_score
            positions, scores = positions[enough], scores[enough]
        if len(scores) > top_k:
            best = np.argpartition(-scores, top_k)[:top_k]
            positions, scores = positions[best], scores[best]
        order = np.argsort(-scores)
        return rows.numbers[positions[order]], scores[order]

    # Tending: in one thread.

    def tend(self, should_stop: Callable[[], bool]) -> None:
        """Moves what has to be from the tail into the graph, and makes room if too many rows are gone."""
        rows, graph = self._state
        if rows.gone > EXACT_UP_TO + self.count // 2 or (rows.gone and not self.count):
            self._rebuild(should_stop)
        elif graph.size or self.count > EXACT_UP_TO:
            end = rows.size - TAIL if graph.size else rows.size
            _extend(graph, rows, np.arange(graph.size, min(end, graph.size + ROWS_A_TURN)), should_stop)

    def _rebuild(self, should_stop: Callable[[], bool]) -> None:
        rows, _ = self._state
        size = rows.size
        (staying,) = np.nonzero(rows.gone_at[:size] == NOT_GONE)
        graph = Graph(self.dim)
        if len(staying) > EXACT_UP_TO and not _extend(graph, rows, staying, should_stop):
            return
        with self._changing:
            (newer,) = np.nonzero(rows.gone_at[size : rows.size] == NOT_GONE)
            taken = rows.taken(np.concatenate([staying, newer + size]))
            self._state = taken, graph

    def snapshot(self) -> tuple[Graph, np.ndarray]:
        """The graph, and the numbers of its rows."""
        rows, graph = self._state
        return graph, rows.numbers[: graph.size]


def _nearest_known(rows: _Rows, graph: Graph, indexed: int, asked: _Asked) -> np.ndarray:
    """Positions among the first `indexed`: the nearest that the filter keeps, or at least those."""
    share = rows.kept((SAMPLE * indexed).astype(np.int64), asked).mean()
    comparing_us = indexed * (IN_ORDER_US + share * SCATTERED_US)
    count = max(CANDIDATES, math.ceil((2 * asked.top_k + 2 * MARGIN) / max(share, 1 / len(SAMPLE))))
    while count <= MOST_CANDIDATES and count * CANDIDATE_US < comparing_us:
        candidates = graph.nearest(asked.vector, count)
        candidates = candidates[candidates < indexed]  # it may have grown
        kept = np.asarray(candidates[rows.kept(candidates, asked)])
        if len(kept) >= asked.top_k + MARGIN:
            return kept
        if asked.min_score is not None and (rows.scores(candidates, asked.vector) < asked.min_score).any():
            return kept  # what comes after is no better
        count *= 4  # what is near is kept more seldom than others
    return rows.matching(indexed, asked)


def _extend(graph: Graph, rows: _Rows, positions: np.ndarray, should_stop: Callable[[], bool]) -> bool:
    """Adds those rows to the graph as its next; False if it was stopped before the end."""
    for start in range(0, len(positions), PIECE):
        if should_stop():
            return False
        piece = positions[start : start + PIECE]
        there = rows.gone_at[piece] == NOT_GONE
        graph.add(graph.size + np.nonzero(there)[0], rows.vectors[piece[there]])
        graph.size += len(piece)
    return True
