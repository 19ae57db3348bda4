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

from service.batcher import Batcher, Encode
from service.cache.base import Cache
from service.encoders.base import Encoder, Prepared
from service.errors import TextError
from service.metrics import Metrics

# Normalising and tokenizing more than this, some milliseconds, would hold up other requests: it goes to a thread.
MANY_CHARACTERS = 4000

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
        keys, too_long = await _off_loop(texts, self._read)
        unique = list(dict.fromkeys(key for key in keys if key))
        vectors = await self._cache.get_many(self.encoder.fingerprint, unique)
        if missing := [key for key in unique if key not in vectors]:
            prepared = await _off_loop(missing, self.encoder.prepare)
            spelled = [text for text in prepared if text.is_spelled]
            fresh = await self._batcher.encode(spelled)
            vectors |= {text.text: vector.tobytes() for text, vector in zip(spelled, fresh, strict=True)}
        return self._assemble(keys, vectors, too_long)

    def _read(self, texts: Sequence[str]) -> tuple[list[str], set[str]]:
        """The texts as the model sees them, and which of those are longer than it takes."""
        keys = [self.encoder.normalize(text) for text in texts]
        return keys, {key for key in set(keys) if self.encoder.truncates(key)}

    def _assemble(self, keys: list[str], vectors: dict[str, bytes], too_long: set[str]) -> Embeddings:
        errors = []
        truncated = [index for index, key in enumerate(keys) if key in too_long and key in vectors]
        nothing = np.full(self.encoder.dim, np.nan, np.float32).tobytes()
        for index, key in enumerate(keys):
            if not key:
                errors.append(TextError(index, "the text is blank", "empty_text"))
            elif key not in vectors:
                message = "none of the characters that the model reads is in its vocabulary"
                errors.append(TextError(index, message, "unspellable"))
        rows = b"".join(vectors.get(key, nothing) for key in keys)
        self._metrics.texts.inc(len(keys))
        self._metrics.truncated.inc(len(truncated))
        for error in errors:
            self._metrics.text_errors[error.error_type].inc()
        return Embeddings(np.frombuffer(rows, np.float32).reshape(len(keys), self.encoder.dim), truncated, errors)


def keeping(encoder: Encoder, cache: Cache) -> Encode:
    """The encoder's `encode`, which keeps every batch in the cache at once.

    So there is no moment at which a text is neither on its way nor known, and when a later batch of the same request
    fails, what was done is not done again.
    """

    async def encode(batch: Sequence[Prepared]) -> np.ndarray:
        vectors = await encoder.encode(batch)
        if len(vectors) == len(batch):  # else the batcher will say so, and no text gets its neighbour's vector
            kept = {text.text: vector.tobytes() for text, vector in zip(batch, vectors, strict=True)}
            await cache.set_many(encoder.fingerprint, kept)
        return vectors

    return encode


async def _off_loop(texts: Sequence[str], work: Callable[[Sequence[str]], T]) -> T:
    return await asyncio.to_thread(work, texts) if sum(map(len, texts)) > MANY_CHARACTERS else work(texts)
