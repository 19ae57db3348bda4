"""Random hostile input, while a well-behaved client is served: a tenth of it here, all of it with `make attack`."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import httpx
import pytest
import zmq
from hostile import make_message, make_request
from processes import serving, working

from service.worker.probe import probe

SCALE = int(os.environ.get("ATTACKS", "1"))  # 10 is all
IS_WHOLE = SCALE >= 10
HTTP_REQUESTS, WIRE_MESSAGES = 1000 * SCALE, 1000 * SCALE
AT_A_TIME = 4
RATE = 20  # requests a second of the well-behaved client
QUIET_S = 5
# A slow machine is no harm: nobody is refused for it.
PATIENT = ("--receive-timeout-s", "600", "--request-timeout-s", "600", "--access-log", "false")


async def ask_steadily(http: httpx.AsyncClient, seconds: list[float], failures: list[str]) -> None:
    number = 0
    while True:
        started = time.perf_counter()
        number += 1
        try:
            answer = await http.post("/embed", json=[f"草 {number}", "awsl"])
            if answer.status_code != 200:
                failures.append(answer.text)
        except httpx.HTTPError as error:
            failures.append(repr(error))
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(max(0.0, 1 / RATE - seconds[-1]))


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


@pytest.mark.timeout(300 * SCALE)
async def test_hostile_requests_harm_nobody(tmp_path: Path) -> None:
    flags = ("--collections", f"sqlite://{tmp_path}", "--threads", "1", *PATIENT)
    # What is hostile takes time to make, in which the well-behaved client would stand still.
    maker = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with serving(*flags) as (gateway, process), maker:
        url = gateway.base_url
        gateway.put("/collections/room")
        quiet: list[float] = []
        loud: list[float] = []
        failures: list[str] = []
        statuses: Counter[int] = Counter()
        async with (
            httpx.AsyncClient(base_url=url, timeout=600) as http,
            httpx.AsyncClient(base_url=url, timeout=600) as hostile,
        ):
            steady = asyncio.create_task(ask_steadily(http, quiet, failures))
            await asyncio.sleep(QUIET_S)
            steady.cancel()
            steady = asyncio.create_task(ask_steadily(http, loud, failures))
            seeds = iter(range(HTTP_REQUESTS))

            async def attack() -> None:
                for seed in seeds:
                    loop = asyncio.get_running_loop()
                    method, path, headers, body = await loop.run_in_executor(maker, make_request, seed)
                    try:
                        answer = await hostile.request(method, path, headers=headers, content=body)
                    except httpx.HTTPError:
                        continue  # it may hang up on what is not HTTP
                    statuses[answer.status_code] += 1
                    assert answer.status_code not in (500, 502), (seed, method, path, body[:200], answer.text)

            await asyncio.gather(*(attack() for _ in range(AT_A_TIME)))
            steady.cancel()
        assert process.poll() is None
        assert not failures
        assert sum(statuses.values()) > 0.9 * HTTP_REQUESTS
        print(f"{dict(statuses)}; p99 {1000 * p99(quiet):.1f} ms quiet, {1000 * p99(loud):.1f} ms meanwhile")
        if IS_WHOLE:  # `make test` asserts no time
            assert p99(loud) < 2 * p99(quiet)


@pytest.mark.timeout(300 * SCALE)
def test_hostile_messages_leave_a_worker_answering(tiny_model: Path) -> None:
    with working(tiny_model, "-max_seq_len", "16") as worker, zmq.Context() as context:
        pushing = context.socket(zmq.PUSH)
        deaf = [context.socket(zmq.SUB) for _ in range(3)]  # they subscribe to everything, and read nothing
        try:
            pushing.linger = 0
            pushing.connect(f"tcp://127.0.0.1:{worker.port}")
            for subscriber in deaf:
                subscriber.linger = 0
                subscriber.rcvhwm = 1
                subscriber.subscribe(b"")
                subscriber.subscribe(b"deaf")
                subscriber.connect(f"tcp://127.0.0.1:{worker.port_out}")
            for number in range(WIRE_MESSAGES):
                pushing.send_multipart(make_message(number))
                if number % 100 == 0:
                    probe(worker.url, timeout_s=60)
            assert worker.process.poll() is None
            with worker.client() as client:
                assert client.encode(["草"]).shape[0] == 1
        finally:
            pushing.close()
            for subscriber in deaf:
                subscriber.close()
