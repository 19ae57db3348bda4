"""API keys take turns at the encoder: one that asks for much hardly holds up one that asks for little."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from fakes import RecordingEncoder

from service.batcher import SHARING_S, Batcher
from service.errors import Overloaded
from service.metrics import Metrics


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(encoder: RecordingEncoder, metrics: Metrics, **changes: Any) -> Batcher[np.ndarray]:
    settings = {"concurrency": lambda: 1, "max_batch_tokens": 48, "max_queue_texts": 100, "clock": Clock()} | changes
    return Batcher(encoder.encode, metrics=metrics, **settings)


async def ask(batcher: Batcher, encoder: RecordingEncoder, payer: str, *texts: str) -> None:
    await batcher.encode(encoder.model.reader.prepare_normalized(texts), payer=payer)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def closed(recording_encoder: RecordingEncoder) -> RecordingEncoder:
    """The encoder, whose calls wait until its gate is opened. A text of one character has 3 tokens."""
    recording_encoder.gate.clear()
    return recording_encoder


async def test_a_key_that_asks_for_little_is_next(closed: RecordingEncoder, metrics: Metrics) -> None:
    """However much another has queued, for whom a call is shorter meanwhile: 12 of 48 tokens."""
    async with make(closed, metrics) as batcher:
        tasks = [asyncio.create_task(ask(batcher, closed, "greedy", *"abcdefgh"[n * 4 : n * 4 + 4])) for n in range(2)]
        tasks += [asyncio.create_task(ask(batcher, closed, "greedy", text)) for text in "ABCDEFGHIJ"]
        await settle()
        tasks.append(asyncio.create_task(ask(batcher, closed, "polite", "x", "y")))
        await settle()
        closed.gate.set()
        await asyncio.gather(*tasks)

    assert closed.calls == [list("abcdefghABCDEFGH"), ["x", "y"], ["I", "J"]]


async def test_keys_have_equal_numbers_of_tokens(closed: RecordingEncoder, metrics: Metrics) -> None:
    """Whatever the length of their lists."""
    async with make(closed, metrics) as batcher:
        tasks = [asyncio.create_task(ask(batcher, closed, "other", "z"))]
        await settle()
        tasks += [asyncio.create_task(ask(batcher, closed, "one", *"abcdefghijklmnopqrst"))]
        tasks += [asyncio.create_task(ask(batcher, closed, "two", text)) for text in "ABCDEFGH"]
        await settle()
        closed.gate.set()
        await asyncio.gather(*tasks)

    assert closed.calls[1:4] == [list("abcdABCD"), list("efghEFGH"), list("ijkl")]


async def test_keys_that_ask_for_little_share_a_call(closed: RecordingEncoder, metrics: Metrics) -> None:
    async with make(closed, metrics) as batcher:
        tasks = [asyncio.create_task(ask(batcher, closed, "first", "z"))]
        await settle()
        tasks += [asyncio.create_task(ask(batcher, closed, f"key {text}", text)) for text in "abcdefgh"]
        await settle()
        closed.gate.set()
        await asyncio.gather(*tasks)

    assert closed.calls == [["z"], list("abcdefgh")]


async def test_a_key_leaves_a_call_to_others(closed: RecordingEncoder, metrics: Metrics) -> None:
    """While another has asked within a second; a key that is alone has all."""
    clock = Clock()
    async with make(closed, metrics, concurrency=lambda: 2, clock=clock, max_batch_tokens=3) as batcher:
        polite = asyncio.create_task(ask(batcher, closed, "polite", "x"))
        await settle()
        tasks = [asyncio.create_task(ask(batcher, closed, "greedy", text)) for text in "abcd"]
        await settle()
        closed.gate.set()
        await asyncio.gather(polite, *tasks)
        shared = closed.most_running
        closed.gate.clear()
        closed.most_running = 0
        tasks = [asyncio.create_task(ask(batcher, closed, "greedy", text)) for text in "efgh"]
        await settle()
        assert closed.running == 1
        clock.now += SHARING_S + 1
        tasks.append(asyncio.create_task(ask(batcher, closed, "greedy", "i")))
        await settle()
        assert closed.running == 2
        closed.gate.set()
        await asyncio.gather(*tasks)

    assert shared == 2


async def test_a_text_that_two_keys_want_has_the_better_turn(closed: RecordingEncoder, metrics: Metrics) -> None:
    async with make(closed, metrics, max_batch_tokens=12) as batcher:
        tasks = [asyncio.create_task(ask(batcher, closed, "greedy", text)) for text in "abcdefghij"]
        await settle()
        polite = asyncio.create_task(ask(batcher, closed, "polite", "j"))
        await settle()
        closed.gate.set()
        await asyncio.gather(polite, *tasks)

    assert closed.calls[:2] == [list("abcd"), ["j"]]


async def test_a_queue_that_one_key_has_filled_has_room_for_another(closed: RecordingEncoder, metrics: Metrics) -> None:
    """As many texts as its share of the queue."""
    async with make(closed, metrics, max_queue_texts=8, max_batch_tokens=3) as batcher:
        texts = [f"{number}" for number in range(9)]
        tasks = [asyncio.create_task(ask(batcher, closed, "greedy", text)) for text in texts[:1]]
        await settle()
        tasks += [asyncio.create_task(ask(batcher, closed, "greedy", *texts[1:]))]
        await settle()
        with pytest.raises(Overloaded):
            await ask(batcher, closed, "greedy", "more")
        tasks.append(asyncio.create_task(ask(batcher, closed, "polite", *"abcd")))
        await settle()
        with pytest.raises(Overloaded):
            await ask(batcher, closed, "polite", "e")
        closed.gate.set()
        await asyncio.gather(*tasks)
