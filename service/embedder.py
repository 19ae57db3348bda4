"""START HERE. Texts in, vectors out: what is known comes from the cache, the rest from the encoder.

    texts → normalise → cache ─ found ─────────────────────┐
                          └─ missing → tokenize → batcher ─┴→ vectors, and why some texts have none

A text that cannot be embedded never sinks the list it came in. Equal texts, as the model's normaliser sees them, are
looked up once and encoded once. All vectors of an answer are of one model, which it names: if another takes over in the
middle, the list is begun anew. Nothing here knows HTTP, sockets or what a model is made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from service.batcher import Batcher, Encode
from service.cache.base import Cache
from service.encoders.base import Encoder
from service.encoders.model import Model, Prepared
from service.errors import ModelGone, TextError
from service.metrics import Metrics

# Normalising and tokenizing more than this, some milliseconds, would hold up other requests: it goes to a thread.
MANY_CHARACTERS = 4000

T = TypeVar("T")


class Wait(Protocol):
    """How somebody waits for the encoder: they may give up, and raise."""

    async def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    return await work


@dataclass(frozen=True)
class Embeddings:
    """What became of a list of texts."""

    model: Model
    rows: list[bytes | None]  # a text's vector, [dim] little-endian float32; None where there is an error
    truncated: list[int]  # indices of texts that were embedded without their end
    errors: list[TextError]  # in order of index

    @property
    def vectors(self) -> np.ndarray:
        """[n, dim] float32; a row of NaN where there is an error."""
        nothing = np.full(self.model.dim, np.nan, "<f4").tobytes()
        rows = b"".join([nothing if row is None else row for row in self.rows])
        return np.frombuffer(rows, "<f4").reshape(len(self.rows), self.model.dim)


class Embedder:
    def __init__(
        self, encoder: Encoder, cache: Cache, batcher: Batcher, metrics: Metrics, *, max_text_characters: int = 10_000
    ) -> None:
        self.encoder = encoder
        self._cache, self._batcher, self._metrics = cache, batcher, metrics
        self._max_characters = max_text_characters

    @property
    def model(self) -> Model:
        """Raises EncoderUnavailable if none is known."""
        return self.encoder.model

    async def embed(self, texts: Sequence[str], wait: Wait = to_the_end) -> Embeddings:
        """Vectors as the encoder made them, in the order of the texts.

        Raises Overloaded or EncoderUnavailable, and what `wait` raises: it is used only if something is to be encoded.
        """
        while True:
            model = self.encoder.model
            try:
                return await self._embed(model, texts, wait)
            except ModelGone:
                if self.encoder.model is model:
                    raise

    async def _embed(self, model: Model, texts: Sequence[str], wait: Wait) -> Embeddings:
        longest = self._max_characters
        keys = await _off_loop(texts, lambda texts: [model.normalize(t) if len(t) <= longest else "" for t in texts])
        unique = list(dict.fromkeys(key for key in keys if key))
        vectors = await self._cache.get_many(model.fingerprint, unique)
        if missing := [key for key in unique if key not in vectors]:
            prepared = await _off_loop(missing, model.prepare)
            spelled = [text for text in prepared if text.is_spelled]
            fresh = await wait(self._batcher.encode(spelled))
            vectors |= {text.text: vector.tobytes() for text, vector in zip(spelled, fresh, strict=True)}
        too_long = await _off_loop(unique, lambda keys: {key for key in keys if model.truncates(key)})
        return self._assemble(model, texts, keys, vectors, too_long)

    def _assemble(
        self,
        model: Model,
        texts: Sequence[str],
        keys: Sequence[str],
        vectors: dict[str, bytes],
        too_long: set[str],
    ) -> Embeddings:
        rows = [vectors.get(key) for key in keys]
        truncated = [index for index, key in enumerate(keys) if key in too_long and key in vectors] if too_long else []
        errors = [self._reason(index, texts[index], keys[index]) for index, row in enumerate(rows) if row is None]
        self._metrics.texts.inc(len(keys))
        self._metrics.truncated.inc(len(truncated))
        for error in errors:
            self._metrics.text_errors[error.error_type].inc()
        return Embeddings(model, rows, truncated, errors)

    def _reason(self, index: int, text: str, key: str) -> TextError:
        if len(text) > self._max_characters:
            message = f"the text has {len(text)} characters; at most {self._max_characters} are taken"
            return TextError(index, message, "text_too_long")
        if not key:
            return TextError(index, "the text is blank", "empty_text")
        return TextError(index, "none of the characters that the model reads is in its vocabulary", "unspellable")


def keeping(encoder: Encoder, cache: Cache) -> Encode:
    """The encoder's `encode`, which keeps every batch in the cache at once.

    So there is no moment at which a text is neither on its way nor known, and when a later batch of the same request
    fails, what was done is not done again.
    """

    async def encode(batch: Sequence[Prepared]) -> np.ndarray:
        vectors = await encoder.encode(batch)
        if len(vectors) == len(batch):  # else the batcher will say so, and no text gets its neighbour's vector
            kept = {text.text: vector.tobytes() for text, vector in zip(batch, vectors, strict=True)}
            await cache.set_many(batch[0].fingerprint, kept)  # a call is of one model
        return vectors

    return encode


async def _off_loop(texts: Sequence[str], work: Callable[[Sequence[str]], T]) -> T:
    return await asyncio.to_thread(work, texts) if sum(map(len, texts)) > MANY_CHARACTERS else work(texts)
