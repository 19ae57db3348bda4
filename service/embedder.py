"""START HERE. Turns texts into vectors: cached ones come from the cache, the others from the encoder.

    texts → normalize → cache ─ found ─────────────────────┐
                          └─ missing → tokenize → batcher ─┴→ vectors, and why some texts have none

A text that cannot be embedded never fails the list it came in. Texts that are equal after the model's normalization are
looked up and encoded once. All vectors of an answer come from one model, which the answer names: if another model takes
over in the middle, the list is embedded again. Nothing here depends on HTTP, sockets or a model's internals.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from service.accounts import current_account
from service.batcher import Batcher
from service.cache.base import Cache
from service.cache.open import open_cache
from service.encoders.base import Encoder
from service.encoders.model import Model, Prepared
from service.encoders.open import EncoderSettings, open_encoder
from service.errors import ModelGone, TextError
from service.huggingface import Pooling
from service.metrics import Metrics
from service.model_directory import find_model
from service.settings import Settings
from service.tasks import run_in_thread_if

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

# Normalizing and tokenizing more than this takes milliseconds and would delay other requests, so a thread does it.
MANY_CHARACTERS = 4000
SAMPLE_TEXTS = 17  # the first texts of a list, when room is scarce; one more than the quick lane accepts
MAX_BATCH_TOKENS = 1024  # of a call on a CPU: larger calls are slower, because its cache overflows


@dataclass(frozen=True)
class Embeddings:
    """The result of embedding a list of texts."""

    model: Model
    rows: list[bytes | None]  # one vector per text, [dim] little-endian float32; None where `errors` has an entry
    encoded: int  # distinct texts that were not in the cache and went to the encoder
    truncated: list[int]  # indices of texts that were truncated
    errors: list[TextError]  # in order of index
    unknown: list[int]  # indices of texts that got a vector although the vocabulary has none of their characters
    keys: list[str] = field(repr=False)  # the normalised texts
    lengths: dict[str, int] = field(repr=False)  # by key: tokens of the texts that were tokenized

    @property
    def vectors(self) -> np.ndarray:
        """All vectors as one matrix [n, dim] float32, with a row of NaN where there is an error."""
        return to_matrix(self.rows, self.model.dim)

    async def count_tokens(self) -> int:
        """Returns how many tokens the model reads of all texts, without [CLS] and [SEP]."""
        lengths, count = self.lengths, self.model.count_tokens
        is_long = len(lengths) < len(self.keys) and sum(map(len, self.keys)) > MANY_CHARACTERS
        # Texts from the cache may have to be tokenized.
        return await run_in_thread_if(
            is_long, lambda: sum((lengths.get(key) or count(key)) - 2 for key in self.keys if key)
        )


def to_matrix(rows: Sequence[bytes | None], dim: int) -> np.ndarray:
    """Returns vectors as one matrix [n, dim] float32, with a row of NaN for None."""
    if None in rows:
        nothing = np.full(dim, np.nan, "<f4").tobytes()
        rows = [row or nothing for row in rows]
    return np.frombuffer(b"".join(cast(Sequence[bytes], rows)), "<f4").reshape(len(rows), dim)


class Embedder:
    """An async context manager; within it any number of tasks may call `embed`."""

    def __init__(
        self,
        encoder: Encoder,
        cache: Cache,
        metrics: Metrics,
        *,
        max_text_characters: int = 10_000,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        max_queue_texts: int = 20_000,
        max_wait_s: float = math.inf,
        batcher_type: type[Batcher[bytes]] = Batcher,
    ) -> None:
        self.encoder = encoder
        self._cache, self._metrics = cache, metrics
        self._max_characters = max_text_characters
        self._batcher = batcher_type(
            self._encode,
            concurrency=lambda: encoder.concurrency,
            max_batch_tokens=max_batch_tokens,
            max_queue_texts=max_queue_texts,
            max_wait_s=max_wait_s,
            metrics=metrics,
        )

    async def __aenter__(self) -> Embedder:
        await self._batcher.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._batcher.__aexit__(*error)

    @property
    def model(self) -> Model:
        """The model in service. Raises EncoderUnavailable if none is known."""
        return self.encoder.model

    @property
    def obstacle(self) -> str | None:
        """The reason why texts sent now would not be embedded, or None."""
        return self.encoder.obstacle or self._batcher.obstacle

    async def embed(self, texts: Sequence[str], *, whole: bool = False, accept_unknown: bool = False) -> Embeddings:
        """Returns vectors as the encoder made them, in the order of the texts.

        `whole`: if any text cannot be embedded, none is, and `errors` has the reasons. `accept_unknown`: a text without
        any character of the vocabulary gets the model's vector of [UNK], which is not cached. Raises Overloaded if the
        queue has no room for the missing texts, EncoderUnavailable if they cannot be encoded.
        """
        while True:
            model = self.encoder.model
            try:
                return await self._embed(model, texts, whole, accept_unknown)
            except ModelGone:
                if self.encoder.model is model:
                    raise

    async def _embed(self, model: Model, texts: Sequence[str], whole: bool, accept_unknown: bool) -> Embeddings:
        account = current_account.get()
        payer = account.name if account else ""
        if len(texts) > SAMPLE_TEXTS:
            await self._check_sample(model, texts, payer)
        longest, is_long = self._max_characters, sum(map(len, texts)) > MANY_CHARACTERS
        keys = await run_in_thread_if(
            is_long, lambda: [model.reader.normalize(text) if len(text) <= longest else "" for text in texts]
        )
        if whole and not all(keys):
            return self._refuse(model, texts, keys, set())
        unique = list(dict.fromkeys(key for key in keys if key))
        vectors = await self._cache.get_many(model.fingerprint, unique, vector_bytes=4 * model.dim)
        encoded = 0
        lengths: dict[str, int] = {}
        unspelled: set[str] = set()
        if missing := [key for key in unique if key not in vectors]:
            self._batcher.check_room(((model.fingerprint, key) for key in missing), payer=payer)
            prepared = await run_in_thread_if(is_long, lambda: model.reader.prepare_normalized(missing))
            lengths = {text.text: text.num_tokens for text in prepared}
            unspelled = {text.text for text in prepared if not text.is_spelled}
            if whole and unspelled and not accept_unknown:
                return self._refuse(model, texts, keys, unspelled)
            embeddable = prepared if accept_unknown else [text for text in prepared if text.is_spelled]
            encoded = len(embeddable)
            fresh = await self._batcher.encode(embeddable, payer=payer)
            vectors |= {text.text: vector for text, vector in zip(embeddable, fresh, strict=True)}
        too_long = await run_in_thread_if(is_long, lambda: {key for key in unique if model.truncates(key)})
        rows = [vectors.get(key) for key in keys]
        truncated = [index for index, key in enumerate(keys) if key in too_long and key in vectors] if too_long else []
        errors = [self._explain(index, texts[index], keys[index]) for index, row in enumerate(rows) if row is None]
        unknown = [index for index, key in enumerate(keys) if key in unspelled and key in vectors] if unspelled else []
        self._count(len(keys), truncated, errors)
        return Embeddings(model, rows, encoded, truncated, errors, unknown, keys, lengths)

    async def _check_sample(self, model: Model, texts: Sequence[str], payer: str) -> None:
        """Raises Overloaded if there is no room for a list's first texts: a refusal must cost less than the list.

        The first new texts must fit. While the queue is nearly full, they represent the whole list.
        """
        times = len(texts) / SAMPLE_TEXTS if self._batcher.is_nearly_full else 1.0
        if self._batcher.has_room(round(times * SAMPLE_TEXTS), payer=payer):
            return
        sample = [text for text in texts[:SAMPLE_TEXTS] if len(text) <= self._max_characters]
        keys = {model.reader.normalize(text) for text in sample} - {""}
        vectors = await self._cache.get_many(model.fingerprint, list(keys), vector_bytes=4 * model.dim)
        missing = ((model.fingerprint, key) for key in keys if key not in vectors)
        self._batcher.check_room(missing, payer=payer, times=times)

    def _refuse(self, model: Model, texts: Sequence[str], keys: list[str], unspelled: set[str]) -> Embeddings:
        """Returns no vectors, and errors for the texts that are blank, too long or in `unspelled`."""
        errors = [
            self._explain(index, texts[index], key) for index, key in enumerate(keys) if not key or key in unspelled
        ]
        self._count(len(keys), [], errors)
        return Embeddings(model, [None] * len(keys), 0, [], errors, [], keys, {})

    async def _encode(self, batch: Sequence[Prepared]) -> list[bytes]:
        """Encodes a batch and puts it into the cache at once.

        So a text is always either in flight or cached, and texts that were encoded before a later batch of the same
        request failed are not encoded again.
        """
        vectors = [vector.tobytes() for vector in await self.encoder.encode(batch)]
        if len(vectors) == len(batch):  # otherwise the batcher raises, and no text gets its neighbour's vector
            # Cached vectors are for every route, so the cache has no texts of unknown characters.
            known = {text.text: vector for text, vector in zip(batch, vectors, strict=True) if text.is_spelled}
            if known:
                await self._cache.set_many(batch[0].fingerprint, known)  # one model's
        return vectors

    def _explain(self, index: int, text: str, key: str) -> TextError:
        if len(text) > self._max_characters:
            message = f"the text has {len(text)} characters; expected at most {self._max_characters}"
            return TextError(index, message, "text_too_long")
        if not key:
            return TextError(index, "the text is blank", "empty_text")
        return TextError(index, "the vocabulary has none of the text's characters", "unspellable")

    def _count(self, texts: int, truncated: list[int], errors: list[TextError]) -> None:
        self._metrics.texts.inc(texts)
        self._metrics.truncated.inc(len(truncated))
        for error in errors:
            self._metrics.text_errors[error.error_type].inc()


def find_model_directory(settings: Settings) -> Path | None:
    """Returns the directory of the model in this process; None if workers encode, or with other layers than usual."""
    scheme, _, rest = settings.encoder.partition("://")
    usual = Pooling()
    is_usual = settings.pooling_layer in (None, usual.layer) and settings.pooling_strategy in (None, usual.strategy)
    return find_model(Path(rest)) if scheme == "onnx" and is_usual else None


@asynccontextmanager
async def open_embedder(
    settings: Settings,
    metrics: Metrics,
    *,
    tracer: Tracer | None = None,
    encoder: Encoder | None = None,
    max_wait_s: float = math.inf,
) -> AsyncIterator[Embedder]:
    """Opens encoder, cache and embedder as the settings say, and closes them in reverse.

    `encoder` replaces the one that the settings name; for `max_wait_s`, see `Batcher`. Raises ConfigurationError.
    """
    if encoder is None:
        encoder = await open_encoder(
            settings.encoder,
            EncoderSettings(
                pooling_layer=settings.pooling_layer,
                pooling_strategy=settings.pooling_strategy,
                max_seq_len=settings.max_seq_len,
                precision=settings.precision,
                device=settings.device,
                threads=settings.threads,
                worker_key_file=settings.worker_key_file,
            ),
            metrics,
        )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(encoder.aclose)
        cache = open_cache(
            settings.cache,
            max_bytes=settings.cache_bytes,
            ttl_s=settings.cache_ttl_s,
            number_format=settings.cache_format,
            metrics=metrics,
        )
        stack.push_async_callback(cache.close)
        batcher_type: type[Batcher[bytes]] = Batcher
        if tracer:
            from service.tracing import TracedCache, make_traced_batcher

            cache, batcher_type = TracedCache(cache, tracer), make_traced_batcher(tracer)
        metrics.queue_limit_texts.set(settings.max_queue_texts)
        yield await stack.enter_async_context(
            Embedder(
                encoder,
                cache,
                metrics,
                max_text_characters=settings.max_text_characters,
                max_batch_tokens=settings.max_batch_tokens or encoder.batch_tokens or MAX_BATCH_TOKENS,
                max_queue_texts=settings.max_queue_texts,
                max_wait_s=max_wait_s,
                batcher_type=batcher_type,
            )
        )
