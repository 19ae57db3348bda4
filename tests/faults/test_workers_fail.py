"""Workers that die, hang, come back, and change their model, under 50 requests a second."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from load import Expected, SteadyLoad, expected_vectors, some_texts
from processes import RunningWorker, hang, serving, working
from stored import until

from service.encoders.options import EncoderOptions

WORKER = ("-max_seq_len", "16", "-pooling_layer", "-2")
OTHER_MODEL = ("-max_seq_len", "16", "-pooling_layer", "-1")


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> Expected:
    """Of both models that workers are started with."""
    options = (EncoderOptions(max_seq_len=16), EncoderOptions((-1,), max_seq_len=16))
    return expected_vectors(tiny_model, some_texts(3000), *options)


Start = Callable[..., RunningWorker]


@pytest.fixture
def start(tiny_model: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start_one(*flags: str, at: RunningWorker | None = None) -> RunningWorker:
            """`at`: in the place of that one, which has been told to end."""
            ports = (at.port, at.port_out) if at else None
            if at:
                at.process.wait(60)  # else it would be the one that says it is ready
            return stack.enter_context(working(tiny_model, *(flags or WORKER), ports=ports))

        yield start_one


@contextlib.contextmanager
def gateway(*workers: RunningWorker) -> Iterator[str]:
    """Without a cache: every request needs a worker."""
    addresses = ",".join(worker.url.removeprefix("bert://") for worker in workers)
    with serving("--cache-bytes", "0", "--access-log", "false", model=f"bert://{addresses}") as (client, _):
        yield str(client.base_url)


async def until_ready(url: str, count: int) -> None:
    """Waits until so many workers are ready, as the gateway says."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def are_ready() -> bool:
            return sum(worker["ready"] for worker in (await client.get("/info")).json()["workers"]) == count

        await until(are_ready)


async def test_one_of_two_workers_is_killed_and_comes_back(start: Start, expected: Expected) -> None:
    """Nobody notices."""
    first, second = start(), start()
    with gateway(first, second) as url:
        async with SteadyLoad(url, expected) as load:
            await load.answer()
            first.process.kill()
            await until_ready(url, 1)
            await load.answer()
            await asyncio.to_thread(start, at=first)
            await until_ready(url, 2)
            second.process.kill()  # now the one that came back has to do it all
            await load.answer()
    print(load.tally)

    assert (load.tally.failed, sum(load.tally.refused.values())) == ([], 0)


async def test_one_of_two_workers_hangs(start: Start, expected: Expected) -> None:
    """It is found out within a second or two; what it had is done by the other."""
    first, second = start(), start()
    with gateway(first, second) as url:
        async with SteadyLoad(url, expected) as load:
            await load.answer()
            hang(first.process)
            await until_ready(url, 1)
            await load.answer()
            first.process.send_signal(signal.SIGCONT)
            await until_ready(url, 2)
            await load.answer()
    print(load.tally)

    assert (load.tally.failed, sum(load.tally.refused.values())) == ([], 0)
    assert max(load.tally.waits) < 20  # and not until the deadline


async def test_all_workers_are_gone_and_come_back(start: Start, expected: Expected) -> None:
    """Meanwhile requests are refused; the only failures allowed are those in flight, and they are refusals, too."""
    only = start()
    with gateway(only) as url:
        async with SteadyLoad(url, expected) as load:
            await load.answer()
            only.process.kill()
            await until(lambda: sum(load.tally.refused.values()) > 50)
            await asyncio.to_thread(start, at=only)
            await load.answer()
    print(load.tally)

    assert load.tally.failed == []


async def test_another_model_takes_over(start: Start, expected: Expected) -> None:
    """Worker by worker; every answer is of one model, which it names, and no request fails."""
    old = [start(), start()]
    with gateway(*old) as url:
        async with SteadyLoad(url, expected) as load:
            await load.answer()
            for worker in old:
                worker.process.terminate()
                await asyncio.to_thread(start, *OTHER_MODEL, at=worker)
                await until_ready(url, 2)
                await load.answer()
    print(load.tally)

    assert (load.tally.failed, sum(load.tally.refused.values())) == ([], 0)
    assert all(load.tally.fingerprints[fingerprint] > 20 for fingerprint in expected)


async def test_another_model_takes_over_beside_the_old_one(start: Start, expected: Expected) -> None:
    """As Kubernetes rolls it out: all new workers first, then the old ones leave, while the load goes on."""
    old, new = [start(), start()], [start(*OTHER_MODEL), start(*OTHER_MODEL)]
    for worker in new:  # known of, and not there yet
        hang(worker.process)
    with gateway(*old, *new) as url:
        async with SteadyLoad(url, expected) as load:
            await load.answer()
            for worker in new:
                worker.process.send_signal(signal.SIGCONT)
            await until_ready(url, 4)
            await load.answer()
            for worker in old:
                worker.process.terminate()
            await until_ready(url, 2)
            await load.answer()
    print(load.tally)

    assert (load.tally.failed, sum(load.tally.refused.values())) == ([], 0)
    assert all(load.tally.fingerprints[fingerprint] > 20 for fingerprint in expected)
