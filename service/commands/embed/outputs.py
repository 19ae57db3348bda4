"""Writes the output formats of `danmaku embed`.

    .npy      one float32 matrix with a row per line; NaN where there is no vector
    .ndjson   a JSON object per line, as POST /embed streams them: index, text, embedding or null with a reason
    .parquet  the same in columns

A work file only ever grows, so after a crash it can be cut back to its last complete block. Parquet keeps its index at
the end of the file, so it is written as an Arrow stream first and converted when the stream is complete.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from danmaku_client import EmbedResponse

from service.errors import ConfigurationError

BATCHES_PER_ROW_GROUP = 32


class Output(Protocol):
    def head(self, first: EmbedResponse) -> bytes:
        """Returns the first bytes of the work file; `first` is the model's response to an empty list."""

    def rows(self, start: int, texts: Sequence[str], response: EmbedResponse) -> bytes:
        """Encodes a block; `start` is the number of its first line, counted from 0."""

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        """Completes the work file, in place or in a file beside it, and returns its path. Repeatable after a crash."""


def open_output(path: Path) -> Output:
    """Chooses the format by the suffix of `path`. Raises ConfigurationError for an unknown one."""
    if path.suffix == ".npy":
        return NpyOutput()
    if path.suffix == ".ndjson":
        return NdjsonOutput()
    if path.suffix == ".parquet":
        return ParquetOutput()
    raise ConfigurationError(f"invalid --output: {path}; expected a name that ends in .npy, .ndjson or .parquet")


class NpyOutput:
    """See `Output`. The header has a fixed size because the number of rows is known only at the end."""

    def head(self, first: EmbedResponse) -> bytes:
        return _npy_header(0, first.vectors.shape[1])

    def rows(self, start: int, texts: Sequence[str], response: EmbedResponse) -> bytes:
        return response.vectors.astype("<f4", copy=False).tobytes()

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        with work.open("r+b") as file:
            file.write(_npy_header(lines, dim))
        return work


def _npy_header(rows: int, dim: int) -> bytes:
    """Returns a header of 128 bytes in NumPy's format 1.0, padded with spaces."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


class NdjsonOutput:
    """See `Output`."""

    def head(self, first: EmbedResponse) -> bytes:
        return b""

    def rows(self, start: int, texts: Sequence[str], response: EmbedResponse) -> bytes:
        truncated, errors = set(response.truncated), {error.index: error for error in response.errors}
        lines = []
        for index, text in enumerate(texts):
            line: dict[str, object] = {"index": start + index, "text": text, "embedding": response.vectors[index]}
            if index in truncated:
                line["truncated"] = True
            if error := errors.get(index):
                line |= {"embedding": None, "error": error.error, "error_type": error.error_type}
            lines.append(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
        return b"".join(lines)

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        return work


class ParquetOutput:
    """See `Output`. The schema's metadata hold the model's name and fingerprint."""

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"{error.name} is required to write Parquet; install it with: pip install 'danmaku-embedding[parquet]'"
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

    def head(self, first: EmbedResponse) -> bytes:
        metadata = {"danmaku.model": first.model, "danmaku.fingerprint": first.fingerprint}
        return bytes(self._schema.with_metadata(metadata).serialize())

    def rows(self, start: int, texts: Sequence[str], response: EmbedResponse) -> bytes:
        arrow, (count, dim) = self._arrow, response.vectors.shape
        errors: list[Any] = [None] * count
        for error in response.errors:
            errors[error.index] = error
        has_no_vector = np.array([error is not None for error in errors], bool)
        ends = np.concatenate([[0], np.cumsum(np.where(has_no_vector, 0, dim))]).astype(np.int32)
        values = arrow.array(response.vectors[~has_no_vector].ravel())
        columns = [
            arrow.array(np.arange(start, start + count)),
            arrow.array(texts, arrow.string()),
            arrow.ListArray.from_arrays(arrow.array(ends), values, mask=arrow.array(has_no_vector)),
            arrow.array(np.isin(np.arange(count), response.truncated)),
            arrow.array([error and error.error for error in errors], arrow.string()),
            arrow.array([error and error.error_type for error in errors], arrow.string()),
        ]
        return bytes(arrow.record_batch(columns, schema=self._schema).serialize())

    def finish(self, work: Path, lines: int, dim: int) -> Path:
        complete = work.with_suffix(".whole")
        with work.open("rb") as file, self._arrow.ipc.open_stream(file) as stream:
            # Vectors are not in the dictionary: their numbers hardly ever repeat.
            settings = {"compression": "zstd", "use_dictionary": ["text", "error", "error_type"]}
            with self._arrow.parquet.ParquetWriter(complete, stream.schema, **settings) as parquet:
                batches: list[Any] = []
                for batch in stream:
                    batches.append(batch)
                    if len(batches) == BATCHES_PER_ROW_GROUP:
                        parquet.write_table(self._arrow.Table.from_batches(batches))
                        batches.clear()
                if batches:
                    parquet.write_table(self._arrow.Table.from_batches(batches))
        return complete
