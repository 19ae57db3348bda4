"""Measures how a greedy API key affects another: the latency of a polite client, alone and beside a greedy one.

The polite client sends two new texts twenty times per second. The greedy one sends lists of 16 new texts over 16
connections, each as soon as the previous one is answered or refused: once with a key with a low rate, and once with a
key without a limit. The three cases take turns, so a machine that gets slower is slower for all.

    .venv/bin/python benchmarks/fairness.py --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
from gateway import CORES, serving

from service.api.http.keys import hash_key, make_key

LIMITS = {"polite": "", "limited": "texts_per_s = 20", "unlimited": ""}
RATE = 20  # requests per second of the polite client
GREEDY = 16  # connections, and texts in a request
SECONDS = 5.0
SETTLE_S = 2.0  # until the saved-up rate is spent

numbers = itertools.count()


def new_texts(count: int) -> list[str]:
    return [f"{os.getpid()}的第{next(numbers)}条" for _ in range(count)]


async def ask(url: str, key: str) -> list[float]:
    """Returns the milliseconds of each request since it was due."""
    times: list[float] = []
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}, timeout=60) as http:
        started = time.perf_counter()
        for number in range(int(RATE * SECONDS)):
            due = started + number / RATE
            if time.perf_counter() > started + 2 * SECONDS:  # far behind; the rest would not be better
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            (await http.post("/embed", json=new_texts(2))).raise_for_status()
            times.append(1000 * (time.perf_counter() - due))
    return times


def grab(url: str, key: str, has_begun: Event) -> None:
    """Sends as much as it can until it is killed, with little work: the polite client shares the processor."""
    host, port = url.removeprefix("http://").split(":")

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while True:
            body = json.dumps(new_texts(GREEDY)).encode()
            head = f"POST /embed HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answered = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answered)
            assert length
            await reader.readexactly(int(length[1]))
            has_begun.set()

    async def run() -> None:
        await asyncio.gather(*(connection() for _ in range(GREEDY)))

    asyncio.run(run())


@contextmanager
def grabbing(url: str, key: str | None) -> Iterator[None]:
    """Runs a greedy client, if it has a key, in a separate process, so that the polite one does not wait for it."""
    if not key:
        yield
        return
    context = multiprocessing.get_context("spawn")
    has_begun = context.Event()
    process = context.Process(target=grab, args=(url, key, has_begun))
    process.start()
    try:
        has_begun.wait()
        time.sleep(SETTLE_S)
        yield
    finally:
        process.kill()
        process.join()


def measure(url: str, keys: dict[str, str], rounds: int) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for greedy in ("", "limited", "unlimited"):
            with grabbing(url, keys.get(greedy)):
                times[greedy] += asyncio.run(ask(url, keys["polite"]))
    named = {"": "alone", "limited": "beside a greedy key of 20 texts/s", "unlimited": "beside one without a limit"}
    for greedy, name in named.items():
        p50, p99 = np.percentile(times[greedy], [50, 99])
        print(f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {p99 / np.percentile(times[''], 99) - 1:+.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    keys = {name: make_key() for name in LIMITS}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "keys.toml"
        tables = (f'[{name}]\nhash = "{hash_key(keys[name])}"\n{limit}' for name, limit in LIMITS.items())
        path.write_text("\n".join(tables), encoding="utf-8")
        flags = ["--api-keys-file", str(path), "--collections", "none", "--cache-bytes", "0", "--access-log", "false"]
        with serving(["-m", "service", "serve", "--port", "{port}", *flags], cores=CORES) as port:
            measure(f"http://127.0.0.1:{port}", keys, rounds)


if __name__ == "__main__":
    main()
