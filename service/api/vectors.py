"""Vectors as JSON has them: numbers, base64, or null."""

from __future__ import annotations

import numpy as np
import orjson
import pybase64

from service.embedder import Embeddings
from service.similarity.ranking import unit


def shown(embeddings: Embeddings, *, normalize: bool = False, in_base64: bool = False) -> list[object]:
    """What stands for each text, for orjson to write."""
    rows = embeddings.rows
    if normalize:
        units = unit(embeddings.vectors)
        rows = [None if row is None else vector.tobytes() for row, vector in zip(rows, units, strict=True)]
    if in_base64:  # as it is, since nothing in base64 needs escaping
        return [None if row is None else orjson.Fragment(b'"%b"' % pybase64.b64encode(row)) for row in rows]
    return [None if row is None else np.frombuffer(row, "<f4") for row in rows]
