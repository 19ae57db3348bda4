"""START HERE. Texts in, vectors out: what is known comes from the cache, the rest from the encoder.

    texts → normalise → cache ─ found ─────────────────────┐
                          └─ missing → tokenize → batcher ─┴→ vectors, and why some texts have none

A text that cannot be embedded never sinks the list it came in. Equal texts, as the model's normaliser sees them, are
looked up once and encoded once. Nothing here knows HTTP, sockets or models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from service.batcher import Batcher
from service.cache.base import Cache
from service.encoders.base import Encoder, Prepared
from service.errors import TextError
from service.metrics import Metrics

# Normalising and tokenizing a list longer than this would hold up other requests: it goes to a thread.
LONG_LIST = 256

T = TypeVar("T")


@dataclass(frozen=True)
class Embeddings:
    """What became of a list of texts."""

    vectors: np.ndarray  # [n, dim] float32; a row of NaN where there is an error
    truncated: list[int]  # indices of texts that were embedded without their end
    errors: list[TextError]  # in order of index


class Embedder:
    def __init__(self, encoder: Encoder, cache: Cache, batcher: Batcher, metrics: Metrics) -> None:
        self.encoder = encoder
        self._cache, self._batcher, self._metrics = cache, batcher, metrics

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Vectors as the encoder made them, in the order of the texts. Raises Overloaded or EncoderUnavailable."""
        encoder = self.encoder
        keys = await _off_loop(len(texts), lambda: [encoder.normalize(text) for text in texts])
        unique = list(dict.fromkeys(key for key in keys if key))
        vectors = await self._cache.get_many(encoder.fingerprint, unique)
        if missing := [key for key in unique if key not in vectors]:
            vectors |= await self._encode(missing)
        truncated = [index for index, key in enumerate(keys) if encoder.truncates(key)]
        return self._assemble(keys, vectors, truncated)

    async def _encode(self, missing: list[str]) -> dict[str, bytes]:
        prepared: list[Prepared] = await _off_loop(len(missing), lambda: self.encoder.prepare(missing))
        spelled = [text for text in prepared if text.is_spelled]
        fresh = await self._batcher.encode(spelled)
        vectors = {text.text: vector.tobytes() for text, vector in zip(spelled, fresh, strict=True)}
        await self._cache.set_many(self.encoder.fingerprint, vectors)
        return vectors

    def _assemble(self, keys: list[str], vectors: dict[str, bytes], truncated: list[int]) -> Embeddings:
        errors = []
        nothing = np.full(self.encoder.dim, np.nan, np.float32).tobytes()
        for index, key in enumerate(keys):
            if not key:
                errors.append(TextError(index, "the text is blank", "empty_text"))
            elif key not in vectors:
                message = "the model's vocabulary has none of the text's characters"
                errors.append(TextError(index, message, "unspellable"))
        rows = b"".join(vectors.get(key, nothing) for key in keys)
        self._metrics.texts.inc(len(keys))
        self._metrics.truncated.inc(len(truncated))
        for error in errors:
            self._metrics.text_errors[error.error_type].inc()
        return Embeddings(np.frombuffer(rows, np.float32).reshape(len(keys), self.encoder.dim), truncated, errors)


async def _off_loop(length: int, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if length > LONG_LIST else work()
