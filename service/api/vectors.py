"""Formats vectors for JSON as numbers, base64 or null, and embeds texts for routes whose format has no null."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from fastapi import Response
from pybase64 import b64encode_as_string

from service.api.http.pieces import count_per_piece, json_list
from service.api.http.responses import json_response
from service.api.http.state import State
from service.embedder import Embeddings, to_matrix
from service.encoders.model import Model
from service.errors import InvalidRequest, NoVector
from service.vectors import unit

UNKNOWN = "X-Danmaku-Unknown"
MAX_NAMED = 100  # in a header


async def embed_whole(state: State, texts: Sequence[str], field: str) -> Embeddings:
    """Embeds all texts of `field`, also those of unknown characters unless the settings refuse them.

    Raises NoVector, before anything is encoded, if one cannot be embedded, and what `Embedder.embed` raises.
    """
    result = await state.embedder.embed(texts, whole=True, accept_unknown=not state.settings.refuse_unknown)
    if result.errors:
        raise NoVector(result.errors[0], field)
    return result


def name_unknown(embeddings: Embeddings) -> dict[str, str]:
    """Returns the header with the indices of texts that only have unknown characters, at most MAX_NAMED."""
    return {UNKNOWN: ",".join(map(str, embeddings.unknown[:MAX_NAMED]))} if embeddings.unknown else {}


def check_dimensions(model: Model, dimensions: int | None) -> None:
    """Raises InvalidRequest if the model was not trained for vectors cut to `dimensions`."""
    if dimensions is not None and dimensions not in model.dimensions:
        *others, last = map(str, model.dimensions)
        expected = f"{', '.join(others)} or {last}" if others else last
        message = f"invalid dimensions {dimensions}: expected {expected}, as {model.name!r} was trained for"
        raise InvalidRequest(message, param="dimensions")


def cut_vectors(vectors: np.ndarray, *, normalize: bool, dimensions: int | None) -> np.ndarray:
    """Cuts rows [n, dim] to [n, dimensions], then scales them to length 1 if `normalize`.

    Only in this order do cut vectors have length 1.
    """
    if dimensions is not None:
        vectors = vectors[:, :dimensions]
    return unit(vectors) if normalize else np.ascontiguousarray(vectors)


def format_vectors(
    rows: Sequence[bytes | None],
    dim: int,
    *,
    normalize: bool = False,
    in_base64: bool = False,
    dimensions: int | None = None,
) -> list[object]:
    """Returns, for orjson, `Embeddings.rows` as `cut_vectors` makes them; None for a text without a vector."""
    if normalize:
        units = cut_vectors(to_matrix(rows, dim), normalize=True, dimensions=dimensions)
        rows = [None if row is None else vector.tobytes() for row, vector in zip(rows, units, strict=True)]
    elif dimensions is not None:
        rows = [None if row is None else row[: 4 * dimensions] for row in rows]
    if in_base64:  # made each time: it takes 0.3 µs, and caching it beside the vector would more than halve the cache
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
    dimensions: int | None = None,
    wrap: Callable[[int, object], object] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Returns a JSON object with all vectors in the field `name`, between others; in pieces if it is large.

    `wrap(index, vector)` returns the replacement for a vector.
    """
    rows, dim = embeddings.rows, embeddings.model.dim
    count, per_piece = len(rows), count_per_piece(dim)

    def make(start: int, stop: int) -> Sequence[object]:
        part = rows[start:stop]
        vectors = format_vectors(part, dim, normalize=normalize, in_base64=in_base64, dimensions=dimensions)
        return vectors if wrap is None else list(map(wrap, range(start, stop), vectors))

    if count <= 2 * per_piece:
        return json_response({**before, name: make(0, count), **after}, headers=headers)
    return json_list(before, name, count, make, after, per_piece=per_piece, headers=headers)
