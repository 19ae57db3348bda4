"""Measures a collection as a bot uses it, over HTTP: it is filled from a file, then lines are observed at a rate.

A gateway runs with the bundled model and its own store; `danmaku collections load` fills it. Each step of the loop
is due at a fixed time and observes a new line, while an overlay listens to the topics; with `--apart` it
has two requests, which add a line and search for another. A step's time is from its due time until the last answer. A
line's delay is the time until an event that counts it.

    .venv/bin/python benchmarks/bot.py --danmaku danmaku.txt
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
from danmaku_client import AsyncClient, GatewayError
from gateway import CORES, serving
from material import ROOT, read_texts
from metrics import listening

NAME = "bot"
LAST_EVENT_S = 1.5  # after the last line


async def loop(url: str, gateway: int, lines: list[str], rate: float, *, apart: bool) -> None:
    times: list[float] = []
    sent: list[float] = []
    events: list[tuple[float, float]] = []
    failures: list[str] = []
    tasks: set[asyncio.Task[None]] = set()
    async with AsyncClient(url) as client:
        listening = asyncio.create_task(listen(url, events))

        async def step(line: str, query: str, due: float) -> None:
            try:
                if apart:
                    await client.add(NAME, [line])
                    await client.search(NAME, query, top_k=10)
                else:
                    sent.append(time.time())
                    await client.observe(NAME, [{"text": line, "time": sent[-1]}])
            except GatewayError as error:
                failures.append(error.error_type)
                return
            times.append(1000 * (time.perf_counter() - due))

        process = psutil.Process(gateway)
        computed = sum(process.cpu_times()[:2])
        started = time.perf_counter()
        for number, line in enumerate(lines):
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.add(task := asyncio.create_task(step(line, lines[number * 7919 % len(lines)], due)))
            task.add_done_callback(tasks.discard)
            if (number + 1) % (len(lines) // 6) == 0:
                resident = process.memory_info().rss / 2**20
                print(f"after {number + 1:,} lines: {resident:,.0f} MiB resident", flush=True)
        while tasks:
            await asyncio.wait(tasks)
        taken = time.perf_counter() - started
        computed = sum(process.cpu_times()[:2]) - computed
        await asyncio.sleep(0 if apart else LAST_EVENT_S)
        listening.cancel()
    p50, p99 = np.percentile(times, [50, 99])
    print(f"{len(times) / taken:.0f} lines a second: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"failed: {len(failures)} {set(failures) or ''}; {1000 * computed / len(lines):.1f} ms of processor a line")

    if not apart:
        place = np.searchsorted([counted for counted, _ in events], sent)
        delays = np.array([received for _, received in events])[place] - sent
        print(f"{len(events)} events; a line is in one after {np.median(delays):.2f} s, at most {delays.max():.2f}")


async def listen(url: str, events: list[tuple[float, float]]) -> None:
    """Records for each event the time of its last line, and when it arrived."""
    headers = {"accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=url, timeout=None) as http,
        http.stream("GET", f"/collections/{NAME}/topics", headers=headers) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: ") and (now := json.loads(line[6:])["now"]) is not None:
                events.append((now, time.time()))


def load(url: str, lines: list[str], directory: Path) -> None:
    path = directory / "load.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    started = time.perf_counter()
    command = [sys.executable, "-m", "service", "collections", "load", "--lenient", NAME, str(path), "--url", url]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    print(f"{told.strip()}: {len(lines) / (time.perf_counter() - started):,.0f} a second")


def wait_until_idle(gateway: int) -> None:
    """Waits until the loaded items are in the graph: on two cores, indexing would disturb the measurement."""
    started, process = time.perf_counter(), psutil.Process(gateway)
    while process.cpu_percent(interval=1) > 10:
        pass
    print(f"indexed {time.perf_counter() - started:.0f} s later")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--danmaku", type=Path, required=True, help="one danmaku per line, more than are used")
    parser.add_argument("--load", type=int, default=50_000, help="danmaku in the collection at the start [50000]")
    parser.add_argument("--rate", type=float, default=200, help="lines per second [200]")
    parser.add_argument("--seconds", type=float, default=60, help="[60]")
    parser.add_argument("--apart", action="store_true", help="add and search, in two requests")
    parser.add_argument("--collections", metavar="URL", help="for example milvus://127.0.0.1:19530; default: SQLite")
    arguments = parser.parse_args()
    said = int(arguments.rate * arguments.seconds)
    lines = read_texts(arguments.danmaku, arguments.load + said)
    if len(lines) < arguments.load + said:
        parser.error(f"{arguments.danmaku} has {len(lines)} distinct danmaku; {arguments.load + said} are needed")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        where = arguments.collections or f"sqlite://{directory / 'collections'}"
        flags = ["--collections", where, "--access-log", "false"]
        with serving(["-m", "service", "serve", "--port", "{port}", *flags], cores=CORES) as port:
            url = f"http://127.0.0.1:{port}"
            load(url, lines[: arguments.load], directory)
            wait_until_idle(listening(port).pid)
            asyncio.run(loop(url, listening(port).pid, lines[arguments.load :], arguments.rate, apart=arguments.apart))


if __name__ == "__main__":
    main()
