"""Opens what turns texts into vectors, in order, and closes it in reverse: for the gateway, and for `danmaku embed`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from service.batcher import Batcher
from service.cache.open import open_cache
from service.embedder import Embedder, keeping
from service.encoders.open import EncoderSettings, open_encoder
from service.metrics import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


@asynccontextmanager
async def open_embedder(
    settings: Settings, metrics: Metrics, tracer: Tracer | None = None
) -> AsyncIterator[tuple[Embedder, Batcher]]:
    """The embedder, and the batcher within, which knows how busy it is. Raises ConfigurationError."""
    async with AsyncExitStack() as stack:
        encoder = await open_encoder(
            settings.encoder,
            EncoderSettings(
                pooling_layer=settings.pooling_layer,
                pooling_strategy=settings.pooling_strategy,
                max_seq_len=settings.max_seq_len,
                precision=settings.precision,
                threads=settings.threads,
            ),
            metrics,
        )
        stack.push_async_callback(encoder.aclose)
        cache = open_cache(
            settings.cache,
            max_bytes=settings.cache_bytes,
            ttl_s=settings.cache_ttl_s,
            number_format=settings.cache_format,
            metrics=metrics,
        )
        stack.push_async_callback(cache.close)
        make_batcher = Batcher
        if tracer:
            from service.tracing import TracedCache, traced_batcher

            cache, make_batcher = TracedCache(cache, tracer), traced_batcher(tracer)
        batcher = await stack.enter_async_context(
            make_batcher(
                keeping(encoder, cache),
                concurrency=lambda: encoder.concurrency,
                max_batch_tokens=settings.max_batch_tokens,
                max_queue_texts=settings.max_queue_texts,
                metrics=metrics,
            )
        )
        metrics.queue_limit_texts.set(settings.max_queue_texts)
        embedder = Embedder(encoder, cache, batcher, metrics, max_text_characters=settings.max_text_characters)
        yield embedder, batcher
