"""The embedder encodes only cache misses, each text once, and no text fails the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from fakes import RecordingEncoder

from service.cache.memory import MemoryCache
from service.embedder import MANY_CHARACTERS, Embedder
from service.errors import EncoderFailure, ModelGone, Overloaded
from service.metrics import Metrics


@pytest.fixture
async def embedder(recording_encoder: RecordingEncoder, metrics: Metrics) -> AsyncIterator[Embedder]:
    cache = MemoryCache(1_000_000, metrics)
    async with Embedder(recording_encoder, cache, metrics, max_batch_tokens=10_000, max_queue_texts=1000) as embedder:
        yield embedder


def texts_encoded(encoder: RecordingEncoder) -> list[str]:
    return [text for call in encoder.calls for text in call]


async def test_vectors_are_in_the_order_of_the_texts(embedder: Embedder) -> None:
    texts = ["awsl", "草", "哈哈"]
    embeddings = await embedder.embed(texts)

    assert embeddings.vectors.dtype == np.float32
    assert embeddings.vectors.tolist() == [RecordingEncoder.vector(text) for text in texts]
    assert (embeddings.truncated, embeddings.errors) == ([], [])


async def test_repeats_are_encoded_once(embedder: Embedder, recording_encoder: RecordingEncoder) -> None:
    """This holds within a request, also for different spellings of a text."""
    embeddings = await embedder.embed(["草", "草", " AWSL", "awsl", "Awsl "])

    assert texts_encoded(recording_encoder) == ["awsl", "草"] or texts_encoded(recording_encoder) == ["草", "awsl"]
    assert embeddings.vectors[2].tolist() == embeddings.vectors[4].tolist() == RecordingEncoder.vector("awsl")


async def test_only_missing_texts_are_encoded(embedder: Embedder, recording_encoder: RecordingEncoder) -> None:
    await embedder.embed(["草", "好"])
    recording_encoder.calls.clear()
    embeddings = await embedder.embed(["好", "死", "草"])

    assert texts_encoded(recording_encoder) == ["死"]
    assert embeddings.encoded == 1
    assert embeddings.vectors.tolist() == [RecordingEncoder.vector(text) for text in "好死草"]


async def test_texts_that_do_not_fit_in_the_queue_are_not_tokenized(
    recording_encoder: RecordingEncoder, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached texts and texts that are being encoded need no room."""
    cache = MemoryCache(1_000_000, metrics)
    async with Embedder(recording_encoder, cache, metrics, max_batch_tokens=100, max_queue_texts=2) as embedder:
        await embedder.embed(["草"])
        recording_encoder.gate.clear()
        running = asyncio.create_task(embedder.embed(["a"]))
        await recording_encoder.until_called(2)
        with monkeypatch.context() as patched:
            patched.setattr(recording_encoder, "prepare_normalized", None)
            with pytest.raises(Overloaded):
                await embedder.embed(["草", "b", "c", "d"])
        shared = asyncio.create_task(embedder.embed(["草", "a", "b", "c"]))
        await asyncio.sleep(0)
        recording_encoder.gate.set()
        await asyncio.gather(running, shared)


async def test_a_full_queue_refuses_a_list_by_its_first_texts(
    recording_encoder: RecordingEncoder, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still takes a list that the cache has."""
    known, first, second, new = ([f"{name}{n}" for n in range(100)] for name in "abcd")
    normalized: list[str] = []

    def normalize(text: str) -> str:
        normalized.append(text)
        return text

    cache = MemoryCache(1_000_000, metrics)
    async with Embedder(recording_encoder, cache, metrics, max_batch_tokens=100, max_queue_texts=100) as embedder:
        await embedder.embed(known)
        recording_encoder.gate.clear()
        calls = len(recording_encoder.calls)
        waiting = [asyncio.create_task(embedder.embed(first))]
        await recording_encoder.until_called(calls + 1)  # what this call has left the queue
        waiting.append(asyncio.create_task(embedder.embed(second[:10])))
        await asyncio.sleep(0)
        monkeypatch.setattr(recording_encoder, "normalize", normalize)

        with pytest.raises(Overloaded):
            await embedder.embed(new)
        looked_at = len(normalized)
        again = await embedder.embed(known)
        recording_encoder.gate.set()
        await asyncio.gather(*waiting)

    assert looked_at < 20
    assert again.encoded == 0


async def test_a_text_without_a_vector_does_not_fail_the_list(embedder: Embedder) -> None:
    """Blank and unspellable texts get a row of NaN and a reason."""
    embeddings = await embedder.embed(["草", "  ", "?", ""])

    assert embeddings.vectors[0].tolist() == RecordingEncoder.vector("草")
    assert np.isnan(embeddings.vectors[1:]).all()
    assert [(error.index, error.error_type) for error in embeddings.errors] == [
        (1, "empty_text"),
        (2, "unspellable"),
        (3, "empty_text"),
    ]


async def test_truncation_is_always_reported(embedder: Embedder) -> None:
    """This includes vectors from the cache."""
    for _ in range(2):
        assert (await embedder.embed(["草", "哈" * 9])).truncated == [1]


async def test_an_empty_list_is_an_empty_matrix(embedder: Embedder) -> None:
    assert (await embedder.embed([])).vectors.shape == (0, RecordingEncoder.dim)


async def test_a_long_list_is_answered_like_a_short_one(embedder: Embedder) -> None:
    texts = [f"text{number}" for number in range(MANY_CHARACTERS // 5)]

    assert (await embedder.embed(texts)).vectors.tolist() == [RecordingEncoder.vector(text) for text in texts]


async def test_an_unspellable_text_is_not_called_truncated(embedder: Embedder) -> None:
    """It was not embedded at all."""
    embeddings = await embedder.embed(["?"])

    assert (embeddings.truncated, [error.error_type for error in embeddings.errors]) == ([], ["unspellable"])
    assert embeddings.encoded == 0


async def test_batches_before_a_failure_are_cached(embedder: Embedder, recording_encoder: RecordingEncoder) -> None:
    """They are not encoded again by the next request."""
    recording_encoder.limit = 20  # so much longer that the two do not share a call
    long = "a" * 20
    recording_encoder.failing.add("b")
    with pytest.raises(EncoderFailure):
        await embedder.embed([long, "b"])
    assert recording_encoder.calls == [[long], ["b"]]
    recording_encoder.failing.clear()
    recording_encoder.calls.clear()
    await embedder.embed([long, "b"])

    assert recording_encoder.calls == [["b"]]


async def test_all_vectors_of_a_result_come_from_one_model(
    embedder: Embedder, recording_encoder: RecordingEncoder
) -> None:
    """If the model changes meanwhile, the whole list is embedded again."""
    await embedder.embed(["草"])
    recording_encoder.gate.clear()
    asking = asyncio.create_task(embedder.embed(["草", "好"]))
    await recording_encoder.until_called(2)
    recording_encoder.model = replace(recording_encoder.model, fingerprint="f1")
    recording_encoder.gate.set()
    embeddings = await asking

    assert embeddings.model.fingerprint == "f1"
    assert recording_encoder.calls == [["草"], ["好"], ["草", "好"]]


async def test_a_model_that_is_gone_for_good_is_an_error(
    embedder: Embedder, recording_encoder: RecordingEncoder
) -> None:
    recording_encoder.failure = ModelGone("no worker has it")
    with pytest.raises(ModelGone):
        await embedder.embed(["草"])


async def test_a_failed_call_is_not_cached(embedder: Embedder, recording_encoder: RecordingEncoder) -> None:
    recording_encoder.failure = RuntimeError("broken")
    with pytest.raises(EncoderFailure):
        await embedder.embed(["草"])
    recording_encoder.failure = None

    assert (await embedder.embed(["草"])).vectors.tolist() == [RecordingEncoder.vector("草")]
