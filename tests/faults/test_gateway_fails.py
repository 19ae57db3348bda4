"""A gateway that is told to end, has ten times the work it can do, and meets callers of the worse kind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import httpx
import psutil
import pytest
from load import Expected, SteadyLoad, expected_vectors, some_texts
from processes import serving
from stored import until

OVERLOAD_S = float(os.environ.get("OVERLOAD_S", "2"))
QUIET = ("--access-log", "false")
NOTHING_LEFT = {"danmaku_queue_texts 0.0", "danmaku_in_flight_texts 0.0"}


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> Expected:
    return expected_vectors(tiny_model, some_texts(3000))


async def test_a_gateway_that_is_told_to_end_lets_nobody_down(tiny_model: Path, expected: Expected) -> None:
    """It says that it is not ready and serves on, until whoever reads that has turned away; then it is gone."""
    with serving("--drain-s", "5", *QUIET, model=f"onnx://{tiny_model}") as (client, process):
        async with SteadyLoad(str(client.base_url), expected, keep_alive=False) as load:
            await load.answer()
            process.send_signal(signal.SIGTERM)
            await until(lambda: client.get("/readyz").status_code == 503)
            await load.answer()  # a balancer does not turn away at once
        assert process.poll() is None
        assert process.wait(60) == 0
    print(load.tally)

    assert (load.tally.failed, sum(load.tally.refused.values())) == ([], 0)


async def test_ten_times_too_much_work(expected: Expected) -> None:
    """What does not fit is refused at once; what is taken is answered; memory stays; afterwards all is as before."""
    flags = ("--threads", "1", "--cache-bytes", "0", "--max-queue-texts", "400", "--max-request-texts", "400")
    texts = [f"{text}第{number}回" for number, text in enumerate(some_texts(20_000, seed=3))]
    with serving(*flags, *QUIET) as (client, process):
        bundled = Path("models/danmaku-bert-mini")
        whole = await asyncio.to_thread(expected_vectors, bundled, texts[:2000])
        capacity = await measured_rate(str(client.base_url), texts)
        async with SteadyLoad(str(client.base_url), whole, rate=capacity * 10 / 40, texts_a_request=40) as load:
            await asyncio.sleep(OVERLOAD_S / 4)
            early = psutil.Process(process.pid).memory_info().rss
            await asyncio.sleep(OVERLOAD_S * 3 / 4)
            for _ in range(600):  # a slow machine takes longer
                if load.tally.right > 20 and load.tally.refused["overloaded"]:
                    break
                await asyncio.sleep(0.1)
            late = psutil.Process(process.pid).memory_info().rss
        print(f"{capacity:.0f} texts/s at most; {load.tally}; resident {early >> 20}, then {late >> 20} MiB")

        assert load.tally.failed == []
        assert load.tally.right > 20
        assert load.tally.refused["overloaded"]
        assert late < early + 50 * 2**20
        assert client.get("/readyz").status_code == 200
        assert client.post("/embed", json=["草"]).status_code == 200


async def measured_rate(url: str, texts: list[str]) -> float:
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        started = loop.time()
        for start in range(0, 1200, 400):
            (await client.post("/embed", json=texts[start : start + 400])).raise_for_status()
        return 1200 / (loop.time() - started)


async def test_a_thousand_callers_hang_up_half_way(tiny_model: Path, expected: Expected) -> None:
    """In the middle of their body, and while they wait for the answer: nothing of theirs stays."""
    with serving("--cache-bytes", "0", "--threads", "1", *QUIET, model=f"onnx://{tiny_model}") as (client, _):
        port = client.base_url.port
        async with SteadyLoad(str(client.base_url), expected) as load:
            for number in range(1000):
                await asyncio.to_thread(half_a_request, port, number)
        print(load.tally)
        for _ in range(100):
            metrics = client.get("/metrics").text
            if set(metrics.splitlines()) >= NOTHING_LEFT:
                break
            await asyncio.sleep(0.1)

    assert (load.tally.failed, sum(load.tally.refused.values())) == ([], 0)
    assert set(metrics.splitlines()) >= NOTHING_LEFT
    assert 'danmaku_requests_total{outcome="failed",route="/embed"} 0.0' in metrics


def half_a_request(port: int, number: int) -> None:
    body = json.dumps([f"走了{number}之{text}" for text in range(20)]).encode()
    sent = body if number % 2 else body[: len(body) // 2]
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + sent)
