"""The files that `danmaku embed` writes: what they look like while they grow, and how they become whole.

    .npy      one float32 matrix, a row a line; NaN where there is no vector
    .ndjson   a JSON object a line, as POST /embed streams them: index, text, embedding or null with a reason
    .parquet  the same in columns

A work file is bytes that are only ever added to, so that one that ends anywhere can be cut back to its last whole block
and go on. So Parquet, whose table of contents stands at its end, grows as an Arrow stream and is converted when all is
there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from danmaku_client import Embedded

from service.errors import ConfigurationError

BATCHES_PER_ROW_GROUP = 32


class Output(Protocol):
    def head(self, first: Embedded) -> bytes:
        """What the work file begins with; `first` is an answer of the model, of no texts."""

    def rows(self, start: int, texts: Sequence[str], embedded: Embedded) -> bytes:
        """What a block adds to it; `start` is the number of its first line, from 0."""

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        """Makes the work file whole, there or in a file beside it, and says where. Called again after a crash."""


def open_output(path: Path) -> Output:
    """The kind of file that a path's ending names. Raises ConfigurationError if there is none."""
    if path.suffix == ".npy":
        return NpyOutput()
    if path.suffix == ".ndjson":
        return NdjsonOutput()
    if path.suffix == ".parquet":
        return ParquetOutput()
    raise ConfigurationError(f"--output {path}: expected a name that ends in .npy, .ndjson or .parquet")


class NpyOutput:
    """See `Output`. The number of rows is known at the end, so the header gets a room of fixed size."""

    def head(self, first: Embedded) -> bytes:
        return _npy_header(0, first.vectors.shape[1])

    def rows(self, start: int, texts: Sequence[str], embedded: Embedded) -> bytes:
        return embedded.vectors.astype("<f4", copy=False).tobytes()

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        with work.open("r+b") as file:
            file.write(_npy_header(lines, dim))
        return work


def _npy_header(rows: int, dim: int) -> bytes:
    """128 bytes: NumPy's format 1.0, padded with spaces."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


class NdjsonOutput:
    """See `Output`."""

    def head(self, first: Embedded) -> bytes:
        return b""

    def rows(self, start: int, texts: Sequence[str], embedded: Embedded) -> bytes:
        truncated, errors = set(embedded.truncated), {error.index: error for error in embedded.errors}
        lines = []
        for index, text in enumerate(texts):
            line: dict[str, object] = {"index": start + index, "text": text, "embedding": embedded.vectors[index]}
            if index in truncated:
                line["truncated"] = True
            if error := errors.get(index):
                line |= {"embedding": None, "error": error.error, "error_type": error.error_type}
            lines.append(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
        return b"".join(lines)

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        return work


class ParquetOutput:
    """See `Output`. Columns index, text, embedding, truncated, error, error_type; the model's name and fingerprint are
    metadata of the schema.
    """

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"Parquet needs {error.name}, which is not installed: pip install 'danmaku-embedding[parquet]'"
            ) from None
        self._arrow: Any = pyarrow
        self._schema = pyarrow.schema(
            [
                ("index", pyarrow.int64()),
                ("text", pyarrow.string()),
                ("embedding", pyarrow.list_(pyarrow.float32())),
                ("truncated", pyarrow.bool_()),
                ("error", pyarrow.string()),
                ("error_type", pyarrow.string()),
            ]
        )

    def head(self, first: Embedded) -> bytes:
        told = {"danmaku.model": first.model, "danmaku.fingerprint": first.fingerprint}
        return bytes(self._schema.with_metadata(told).serialize())

    def rows(self, start: int, texts: Sequence[str], embedded: Embedded) -> bytes:
        arrow, (count, dim) = self._arrow, embedded.vectors.shape
        errors: list[Any] = [None] * count
        for error in embedded.errors:
            errors[error.index] = error
        has_none = np.array([error is not None for error in errors], bool)
        ends = np.concatenate([[0], np.cumsum(np.where(has_none, 0, dim))]).astype(np.int32)
        values = arrow.array(embedded.vectors[~has_none].ravel())
        columns = [
            arrow.array(np.arange(start, start + count)),
            arrow.array(texts, arrow.string()),
            arrow.ListArray.from_arrays(arrow.array(ends), values, mask=arrow.array(has_none)),
            arrow.array(np.isin(np.arange(count), embedded.truncated)),
            arrow.array([error and error.error for error in errors], arrow.string()),
            arrow.array([error and error.error_type for error in errors], arrow.string()),
        ]
        return bytes(arrow.record_batch(columns, schema=self._schema).serialize())

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        whole = work.with_suffix(".whole")
        with work.open("rb") as file, self._arrow.ipc.open_stream(file) as stream:
            # A dictionary of numbers that are never the same twice would only cost time.
            settings = {"compression": "zstd", "use_dictionary": ["text", "error", "error_type"]}
            with self._arrow.parquet.ParquetWriter(whole, stream.schema, **settings) as parquet:
                batches: list[Any] = []
                for batch in stream:
                    batches.append(batch)
                    if len(batches) == BATCHES_PER_ROW_GROUP:
                        parquet.write_table(self._arrow.Table.from_batches(batches))
                        batches.clear()
                if batches:
                    parquet.write_table(self._arrow.Table.from_batches(batches))
        return whole
