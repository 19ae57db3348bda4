"""Vectors as JSON has them: numbers, base64, or null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from fastapi import Response
from pybase64 import b64encode_as_string

from service.api.pieces import count_per_piece, json_list
from service.api.responses import json_response
from service.embedder import Embeddings
from service.vectors import unit


def format_vectors(
    embeddings: Embeddings, *, normalize: bool = False, in_base64: bool = False, dimensions: int | None = None
) -> list[object]:
    """Returns, for orjson, each text's vector or the first `dimensions` numbers of it; None for a text without one."""
    rows = embeddings.rows
    if normalize:
        units = unit(embeddings.vectors)
        rows = [None if row is None else vector.tobytes() for row, vector in zip(rows, units, strict=True)]
    if dimensions:
        rows = [None if row is None else row[: 4 * dimensions] for row in rows]
    if in_base64:  # made each time: 0.3 µs, while caching it beside the vector would more than halve the cache
        return [None if row is None else b64encode_as_string(row) for row in rows]
    return [None if row is None else np.frombuffer(row, "<f4") for row in rows]


def vectors_response(
    before: dict[str, object],
    name: str,
    embeddings: Embeddings,
    after: dict[str, object],
    *,
    normalize: bool = False,
    in_base64: bool = False,
) -> Response:
    """Returns a JSON object with all vectors in the field `name`, between others; in pieces if it is large."""
    count, per_piece = len(embeddings.rows), count_per_piece(embeddings.model.dim)

    def make(start: int, stop: int) -> Sequence[object]:
        part = replace(embeddings, rows=embeddings.rows[start:stop])
        return format_vectors(part, normalize=normalize, in_base64=in_base64)

    if count <= 2 * per_piece:
        vectors = format_vectors(embeddings, normalize=normalize, in_base64=in_base64)
        return json_response({**before, name: vectors, **after})
    return json_list(before, name, count, make, after, per_piece=per_piece)
