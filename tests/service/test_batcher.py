"""The batcher: what is sent to the encoder, and what happens when callers leave."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import RecordingEncoder

from service.batcher import TRY_AGAIN_AFTER_S, Batcher
from service.encoders.model import Prepared
from service.errors import EncoderFailure, EncoderUnavailable, ModelGone, Overloaded
from service.log import RequestRecord, current_request
from service.metrics import Metrics


@pytest.fixture
async def batcher(recording_encoder: RecordingEncoder, metrics: Metrics) -> AsyncIterator[Batcher[np.ndarray]]:
    async with make(recording_encoder, metrics) as batcher:
        yield batcher


class Clock:
    """Seconds that pass only when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(encoder: RecordingEncoder, metrics: Metrics, **changes: Any) -> Batcher[np.ndarray]:
    settings = {"concurrency": lambda: 1, "max_batch_tokens": 1000, "max_queue_texts": 100} | changes
    return Batcher(encoder.encode, metrics=metrics, **settings)


async def ask(batcher: Batcher, encoder: RecordingEncoder, *texts: str) -> list[list[float]]:
    return [vector.tolist() for vector in await batcher.encode(encoder.model.reader.prepare_normalized(texts))]


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_vectors_come_back_in_the_order_of_the_texts(
    batcher: Batcher, recording_encoder: RecordingEncoder
) -> None:
    """The order does not depend on the batches."""
    texts = ["哈哈哈", "草", "awsl", "晚安"]

    assert await ask(batcher, recording_encoder, *texts) == [RecordingEncoder.vector(text) for text in texts]


async def test_an_empty_list_is_answered_without_a_call(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    assert await ask(batcher, recording_encoder) == []
    assert recording_encoder.calls == []


async def test_simultaneous_callers_share_a_call(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    """Eight clients with one text each make one model call, not eight."""
    texts = list("abcdefgh")

    await asyncio.gather(*(ask(batcher, recording_encoder, text) for text in texts))

    assert recording_encoder.calls == [texts]


async def test_a_text_in_flight_is_not_sent_again(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    """This holds while it is queued and while it is being encoded."""
    recording_encoder.gate.clear()
    first = asyncio.create_task(ask(batcher, recording_encoder, "草"))
    await settle()
    second = asyncio.create_task(ask(batcher, recording_encoder, "草", "好"))
    third = asyncio.create_task(ask(batcher, recording_encoder, "好"))
    await settle()
    recording_encoder.gate.set()

    assert await first == [RecordingEncoder.vector("草")]
    assert await second == [RecordingEncoder.vector("草"), RecordingEncoder.vector("好")]
    assert await third == [RecordingEncoder.vector("好")]
    assert recording_encoder.calls == [["草"], ["好"]]


async def test_texts_accumulate_while_the_encoder_is_busy(
    batcher: Batcher, recording_encoder: RecordingEncoder
) -> None:
    """There is no timer: the next batch is what has arrived meanwhile."""
    recording_encoder.gate.clear()
    tasks = [asyncio.create_task(ask(batcher, recording_encoder, "a"))]
    await settle()
    tasks += [asyncio.create_task(ask(batcher, recording_encoder, text)) for text in "bcd"]
    await settle()
    assert recording_encoder.calls == [["a"]]
    recording_encoder.gate.set()
    await asyncio.gather(*tasks)

    assert recording_encoder.calls == [["a"], ["b", "c", "d"]]


async def test_texts_of_similar_length_share_a_call(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    """The text that has waited longest leads; those under a quarter of its tokens would mostly be padding."""
    async with make(recording_encoder, metrics, max_batch_tokens=1000) as batcher:
        recording_encoder.limit = 100
        await ask(batcher, recording_encoder, "a" * 20, "b", "c" * 6, "d", "e" * 20)

    assert recording_encoder.calls == [["a" * 20, "e" * 20, "c" * 6], ["b", "d"]]


async def test_a_call_respects_the_token_budget(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    """5 texts of 4 tokens under a budget of 8 make three calls."""
    async with make(recording_encoder, metrics, max_batch_tokens=8) as batcher:
        await ask(batcher, recording_encoder, "aa", "bb", "cc", "dd", "ee")

    assert recording_encoder.calls == [["aa", "bb"], ["cc", "dd"], ["ee"]]


async def test_a_text_over_the_budget_has_a_call_of_its_own(
    recording_encoder: RecordingEncoder, metrics: Metrics
) -> None:
    async with make(recording_encoder, metrics, max_batch_tokens=1) as batcher:
        await ask(batcher, recording_encoder, "aa", "bb")

    assert recording_encoder.calls == [["aa"], ["bb"]]


async def test_a_call_respects_the_number_of_texts(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    async with make(recording_encoder, metrics, max_batch_size=2) as batcher:
        await ask(batcher, recording_encoder, "a", "b", "c")

    assert recording_encoder.calls == [["a", "b"], ["c"]]


async def test_short_requests_overtake_long_ones(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    """They have a call of their own, which ends sooner."""
    recording_encoder.gate.clear()
    async with make(recording_encoder, metrics, max_batch_tokens=12, priority_batch_size=2) as batcher:
        many = asyncio.create_task(ask(batcher, recording_encoder, *"abcdefghi"))
        await settle()
        few = asyncio.create_task(ask(batcher, recording_encoder, "x", "y"))
        await settle()
        recording_encoder.gate.set()
        await asyncio.gather(many, few)

    assert recording_encoder.calls == [list("abcd"), list("xy"), list("efgh"), ["i"]]


async def test_long_requests_have_every_fourth_call(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    """Short requests fill what room is left in it."""
    recording_encoder.gate.clear()
    async with make(recording_encoder, metrics, max_batch_tokens=3, priority_batch_size=1) as batcher:
        tasks = [asyncio.create_task(ask(batcher, recording_encoder, *"abc"))]
        await settle()
        tasks += [asyncio.create_task(ask(batcher, recording_encoder, text)) for text in "123456"]
        await settle()
        recording_encoder.gate.set()
        await asyncio.gather(*tasks)

    assert [call[0] for call in recording_encoder.calls] == list("a123b456c")


async def test_a_short_request_moves_its_texts_ahead_of_a_long_list(
    recording_encoder: RecordingEncoder, metrics: Metrics
) -> None:
    recording_encoder.gate.clear()
    async with make(recording_encoder, metrics, max_batch_tokens=6, priority_batch_size=1) as batcher:
        many = asyncio.create_task(ask(batcher, recording_encoder, *"abcdef"))
        await settle()
        few = asyncio.create_task(ask(batcher, recording_encoder, "f"))
        await settle()
        recording_encoder.gate.set()
        assert await few == [RecordingEncoder.vector("f")]
        await many

    assert recording_encoder.calls == [list("ab"), ["f"], list("cd"), ["e"]]


async def test_long_texts_do_not_starve(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    """A long text that came first is not overtaken by a stream of short ones."""
    recording_encoder.gate.clear()
    async with make(recording_encoder, metrics, max_batch_tokens=12) as batcher:
        tasks = [asyncio.create_task(ask(batcher, recording_encoder, text)) for text in ("a", "bbbbbbbb")]
        await settle()
        tasks += [asyncio.create_task(ask(batcher, recording_encoder, text)) for text in "cdefghijkl"]
        await settle()
        recording_encoder.gate.set()
        await asyncio.gather(*tasks)

    assert recording_encoder.calls[:2] == [["a"], ["bbbbbbbb"]]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_as_many_calls_run_as_the_encoder_allows(
    concurrency: int, recording_encoder: RecordingEncoder, metrics: Metrics
) -> None:
    async with make(recording_encoder, metrics, concurrency=lambda: concurrency, max_batch_tokens=1) as batcher:
        await ask(batcher, recording_encoder, *"abcdefgh")

    assert recording_encoder.most_running == concurrency


async def test_a_full_queue_refuses_the_whole_request(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    """A request is accepted or refused as a whole; the refusal says when to retry."""
    recording_encoder.gate.clear()
    async with make(recording_encoder, metrics, max_queue_texts=3) as batcher:
        running = asyncio.create_task(ask(batcher, recording_encoder, "a"))
        await settle()
        queued = asyncio.create_task(ask(batcher, recording_encoder, "b", "c"))
        await settle()
        with pytest.raises(Overloaded) as refusal:
            await ask(batcher, recording_encoder, "d", "e")
        assert refusal.value.retry_after_s is not None and refusal.value.retry_after_s >= 1
        assert batcher.obstacle is None
        shared = asyncio.create_task(ask(batcher, recording_encoder, "a", "b", "c"))  # adds nothing to the queue
        await settle()
        recording_encoder.gate.set()
        await asyncio.gather(running, queued, shared)

    assert sorted(text for call in recording_encoder.calls for text in call) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("concurrency", "call_s", "excess", "retry_after_s"),
    [(1, 4.0, 10, 40), (2, 4.0, 10, 20), (2, 4.0, 29, 58), (2, 4.0, 100, 60), (1, 0.001, 10, 1)],
)
async def test_a_refusal_says_how_long_the_excess_will_take(
    concurrency: int, call_s: float, excess: int, retry_after_s: int, metrics: Metrics
) -> None:
    """The estimate is the measured rate of one call times the number of parallel calls, rounded up; at
    most a minute.
    """
    encoder, clock = RecordingEncoder(), Clock()

    async def encode(batch: Sequence[Prepared]) -> np.ndarray:
        clock.now += call_s
        return await encoder.encode(batch)

    async with Batcher(
        encode,
        concurrency=lambda: concurrency,
        max_batch_tokens=99,
        max_queue_texts=5,
        metrics=metrics,
        clock=clock,
    ) as batcher:
        await ask(batcher, encoder, "草")
        with pytest.raises(Overloaded) as refusal:
            await ask(batcher, encoder, *map(str, range(5 + excess)))

    assert refusal.value.retry_after_s == retry_after_s
    assert f"retry in {retry_after_s} s" in str(refusal.value)


async def test_a_list_is_refused_when_it_would_wait_too_long(metrics: Metrics) -> None:
    """A single text is not: it overtakes."""
    encoder, clock = RecordingEncoder(), Clock()

    async def encode(batch: Sequence[Prepared]) -> np.ndarray:
        clock.now += len(batch)
        return await encoder.encode(batch)

    async with Batcher(
        encode,
        concurrency=lambda: 1,
        max_batch_tokens=99,
        max_queue_texts=100,
        max_wait_s=8,
        priority_batch_size=1,
        metrics=metrics,
        clock=clock,
    ) as batcher:
        await ask(batcher, encoder, "草")  # one text a second
        encoder.gate.clear()
        tasks = [asyncio.create_task(ask(batcher, encoder, "忙"))]
        await settle()
        tasks.append(asyncio.create_task(ask(batcher, encoder, *map(str, range(10)))))  # nothing is before it
        await settle()
        with pytest.raises(Overloaded, match=r"retry in 2 s"):
            await ask(batcher, encoder, "a", "b")
        tasks.append(asyncio.create_task(ask(batcher, encoder, "c")))
        await settle()
        encoder.gate.set()
        await asyncio.gather(*tasks)


async def test_a_call_carries_no_callers_context(metrics: Metrics) -> None:
    """It serves several requests, so its log lines must not have the id of one of them."""
    encoder = RecordingEncoder()
    records: list[RequestRecord | None] = []

    async def encode(batch: Sequence[Prepared]) -> np.ndarray:
        records.append(current_request.get())
        return await encoder.encode(batch)

    async with Batcher(
        encode, concurrency=lambda: 1, max_batch_tokens=99, max_queue_texts=9, metrics=metrics
    ) as batcher:
        token = current_request.set(RequestRecord("mine"))
        await ask(batcher, encoder, "草")
        current_request.reset(token)

    assert records == [None]


async def test_a_wrong_number_of_vectors_is_named(metrics: Metrics) -> None:
    """If three texts get two vectors, no caller may get another text's vector."""

    async def too_few(batch: object) -> np.ndarray:
        return np.zeros((2, 2), np.float32)

    encoder = RecordingEncoder()
    async with Batcher(
        too_few, concurrency=lambda: 1, max_batch_tokens=99, max_queue_texts=9, metrics=metrics
    ) as batcher:
        with pytest.raises(EncoderFailure, match="sent 3 texts to the encoder, got 2 vectors back"):
            await batcher.encode(encoder.model.reader.prepare_normalized(["a", "b", "c"]))


async def test_a_failure_is_forgotten(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    """The next request for the text tries again."""
    recording_encoder.failure = RuntimeError("broken")
    with pytest.raises(EncoderFailure):
        await ask(batcher, recording_encoder, "草")
    recording_encoder.failure = None

    assert await ask(batcher, recording_encoder, "草") == [RecordingEncoder.vector("草")]


async def test_an_encoder_that_keeps_failing_is_an_obstacle(
    recording_encoder: RecordingEncoder, metrics: Metrics
) -> None:
    """Three failures in a row are, one is not; a success or some time ends it."""
    recording_encoder.failure = RuntimeError("broken")
    clock = Clock()
    async with make(recording_encoder, metrics, clock=clock) as batcher:
        for expected in (None, None, "the encoder failed its last 3 calls"):
            with pytest.raises(EncoderFailure):
                await ask(batcher, recording_encoder, "草")
            assert batcher.obstacle == expected
        clock.now += TRY_AGAIN_AFTER_S
        assert batcher.obstacle is None
        clock.now -= 1
        assert batcher.obstacle == "the encoder failed its last 3 calls"
        recording_encoder.failure = None
        await ask(batcher, recording_encoder, "草")

        assert batcher.obstacle is None


async def test_a_call_contains_texts_of_one_model(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    """Texts prepared for two models may wait together while the model changes."""
    old, new = (replace(recording_encoder.model, fingerprint=f) for f in ("f0", "f1"))
    recording_encoder.gate.clear()
    busy = asyncio.create_task(batcher.encode(old.reader.prepare_normalized(["忙"])))
    await settle()
    waiting = []
    for text in "草好死来":
        for model in (old, new):
            recording_encoder.model = model
            waiting.append(asyncio.create_task(batcher.encode(model.reader.prepare_normalized([text]))))
    recording_encoder.model = old
    await settle()
    recording_encoder.gate.set()
    done = await asyncio.gather(busy, *waiting, return_exceptions=True)

    assert recording_encoder.calls == [["忙"], ["草", "好", "死", "来"], ["草", "好", "死", "来"]]
    assert [isinstance(one, ModelGone) for one in done] == [False, *[False, True] * 4]


@pytest.mark.parametrize("failure", [EncoderUnavailable("no worker is ready"), ModelGone("another has taken over")])
async def test_an_unavailable_encoder_does_not_count_as_failing(
    batcher: Batcher, recording_encoder: RecordingEncoder, failure: EncoderUnavailable
) -> None:
    """It reports that itself; when it is back, there is no obstacle."""
    recording_encoder.failure = failure
    for _ in range(5):
        with pytest.raises(type(failure)):
            await ask(batcher, recording_encoder, "草")

    assert batcher.obstacle is None


async def test_one_of_two_sharers_leaves(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    """The other still gets the vector, from the one call."""
    recording_encoder.gate.clear()
    leaves = asyncio.create_task(ask(batcher, recording_encoder, "草"))
    stays = asyncio.create_task(ask(batcher, recording_encoder, "草"))
    await settle()
    leaves.cancel()
    await settle()
    recording_encoder.gate.set()

    assert await stays == [RecordingEncoder.vector("草")]
    assert leaves.cancelled()
    assert recording_encoder.calls == [["草"]]


async def test_the_only_caller_leaves_before_dispatch(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    """Its text is never encoded and no longer counts as waiting."""
    recording_encoder.gate.clear()
    busy = asyncio.create_task(ask(batcher, recording_encoder, "a"))
    await settle()
    leaves = asyncio.create_task(ask(batcher, recording_encoder, "bb", "cc"))
    await settle()
    leaves.cancel()
    await settle()
    assert batcher._queued == 0
    recording_encoder.gate.set()
    await busy

    assert recording_encoder.calls == [["a"]]


async def test_the_only_caller_leaves_during_the_call(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    """The batcher keeps working."""
    recording_encoder.gate.clear()
    leaves = asyncio.create_task(ask(batcher, recording_encoder, "草"))
    await settle()
    leaves.cancel()
    await settle()
    recording_encoder.gate.set()

    assert await ask(batcher, recording_encoder, "好") == [RecordingEncoder.vector("好")]


async def test_the_call_fails_after_everyone_left(batcher: Batcher, recording_encoder: RecordingEncoder) -> None:
    """The log has no "exception was never retrieved", and the batcher keeps working."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    recording_encoder.gate.clear()
    leaves = asyncio.create_task(ask(batcher, recording_encoder, "草"))
    await settle()
    leaves.cancel()
    await settle()
    recording_encoder.failure = RuntimeError("broken")
    recording_encoder.gate.set()
    await settle()
    recording_encoder.failure = None
    del leaves
    gc.collect()

    assert await ask(batcher, recording_encoder, "草") == [RecordingEncoder.vector("草")]
    assert complaints == []


async def test_closing_answers_waiting_callers(recording_encoder: RecordingEncoder, metrics: Metrics) -> None:
    """Texts in the encoder are finished, queued ones get an error, and later ones are refused."""
    recording_encoder.gate.clear()
    batcher = make(recording_encoder, metrics)
    async with batcher:
        running = asyncio.create_task(ask(batcher, recording_encoder, "a"))
        await settle()
        queued = asyncio.create_task(ask(batcher, recording_encoder, "b"))
        await settle()
        asyncio.get_running_loop().call_later(0.05, recording_encoder.gate.set)

    assert await running == [RecordingEncoder.vector("a")]
    with pytest.raises(EncoderUnavailable):
        await queued
    with pytest.raises(EncoderUnavailable):
        await ask(batcher, recording_encoder, "c")
    assert recording_encoder.calls == [["a"]]


async def test_the_gauges_return_to_zero(
    batcher: Batcher, recording_encoder: RecordingEncoder, metrics: Metrics
) -> None:
    """They do so after success, after failure, and after callers have left."""
    await ask(batcher, recording_encoder, "a", "b")
    recording_encoder.failure = RuntimeError("broken")
    with pytest.raises(EncoderFailure):
        await ask(batcher, recording_encoder, "c")
    recording_encoder.gate.clear()
    tasks = [asyncio.create_task(ask(batcher, recording_encoder, text)) for text in "de"]
    await settle()
    for task in tasks:
        task.cancel()
    recording_encoder.gate.set()
    await settle()

    assert metrics.registry.get_sample_value("danmaku_queue_texts") == 0
    assert metrics.registry.get_sample_value("danmaku_in_flight_texts") == 0
    assert metrics.registry.get_sample_value("danmaku_batch_tokens_total") == 6
