"""Measures memory and descriptors of a gateway under mixed load: both should be flat after the first minutes.

Clients embed, search, add danmaku that expire, delete, stream, hang up early, do not read, and send invalid
input, each as fast as it is answered. Every half minute a line shows what the gateway holds. All caches (of vectors,
normalised texts and spellings) are filled first, because growth until they are full is not a leak.

    .venv/bin/python benchmarks/soak.py --minutes 30
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import psutil
from gateway import CORES, serving
from metrics import listening

EVERY_S = 30.0
SETTLED_S = 180.0
PACE_S = 0.02  # between two requests of a client
TTL_S = 20
CACHED = 60_000  # texts: more than any cache here holds
AT_A_TIME = 2_000
NDJSON = {"Content-Type": "application/x-ndjson"}

numbers = itertools.count(100_000)  # always with this many digits, so that texts in caches take equal memory
counts: Counter[str] = Counter()


def some_texts(count: int) -> list[str]:
    """Sends texts, half of which are new."""
    return [f"第{next(numbers)}条" if random.random() < 0.5 else f"常见{random.randrange(1000)}" for _ in range(count)]


async def embed(http: httpx.AsyncClient, _: int) -> int:
    return (await http.post("/embed", json=some_texts(random.choice((1, 4, 16, 200))))).status_code


async def similar(http: httpx.AsyncClient, _: int) -> int:
    body = {"query": some_texts(2), "collection": "soak", "filter": {"room": random.randrange(3)}}
    return (await http.post("/similar", json=body)).status_code


async def add(http: httpx.AsyncClient, _: int) -> int:
    items = [{"text": text, "metadata": {"room": n % 3}, "ttl_s": TTL_S} for n, text in enumerate(some_texts(20))]
    return (await http.post("/collections/soak/danmaku", json=items)).status_code


async def delete(http: httpx.AsyncClient, _: int) -> int:
    await asyncio.sleep(1)
    return (await http.post("/collections/soak/delete", json={"filter": {"room": 2}})).status_code


async def stream(http: httpx.AsyncClient, _: int) -> int:
    async def lines() -> AsyncIterator[bytes]:
        for text in some_texts(300):
            yield json.dumps(text).encode() + b"\n"

    return (await http.post("/embed", content=lines(), headers=NDJSON)).status_code


async def hang_up(_: httpx.AsyncClient, port: int) -> int:
    """Hangs up in the middle of a large body, or of an unread answer."""
    body = json.dumps(some_texts(5000)).encode()
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(OSError):
        writer.write(b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body[: random.choice((len(body) // 2, len(body)))])
        await writer.drain()
        await asyncio.sleep(1)
    writer.close()
    return 499


async def send_invalid(http: httpx.AsyncClient, _: int) -> int:
    body = random.choice((b"[" * 5000, b'{"texts": 1}', b"\xff", b"[" + b"1," * 50_000 + b"1]", b'[""]'))
    return (await http.post("/embed", content=body)).status_code


WORK: tuple[Callable[[httpx.AsyncClient, int], Awaitable[int]], ...] = (
    *(embed, embed, similar, add, delete),
    *(stream, hang_up, send_invalid),
)


async def repeat(work: Callable[[httpx.AsyncClient, int], Awaitable[int]], port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
        while True:
            counts[f"{work.__name__} {await work(http, port)}"] += 1
            await asyncio.sleep(PACE_S)


async def fill_caches(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as http:
        for _ in range(0, CACHED, AT_A_TIME):
            texts = [f"第{next(numbers)}条" for _ in range(AT_A_TIME)]
            answer = await http.post("/similar", json={"query": "草", "candidates": texts})
            answer.raise_for_status()


async def soak(port: int, minutes: float) -> None:
    gateway = psutil.Process(listening(port).pid)
    async with httpx.AsyncClient() as http:
        (await http.put(f"http://127.0.0.1:{port}/collections/soak")).raise_for_status()
    await fill_caches(port)
    clients = [asyncio.create_task(repeat(work, port)) for work in WORK]
    started, settled = time.monotonic(), []
    while time.monotonic() < started + 60 * minutes:
        done, _ = await asyncio.wait(clients, timeout=EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        for client in done:
            client.result()
        passed = time.monotonic() - started
        mebibytes, descriptors = gateway.memory_info().rss / 2**20, gateway.num_fds()
        held = f"{mebibytes:6.0f} MiB {descriptors:4} descriptors"
        print(f"{passed / 60:5.1f} min {held} {counts.total():8,} requests", flush=True)
        if passed > SETTLED_S:
            settled.append((mebibytes, descriptors))
    for client in clients:
        client.cancel()
    print(dict(sorted(counts.items())))
    if settled:
        (least, fewest), (most, highest) = map(min, zip(*settled, strict=True)), map(max, zip(*settled, strict=True))
        print(f"after {SETTLED_S / 60:.0f} min: {least:.0f} to {most:.0f} MiB, {fewest} to {highest} descriptors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="[30]")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as scratch:
        flags = ["--collections", f"sqlite://{scratch}", "--cache-bytes", str(2**24), "--access-log", "false"]
        flags += ["--request-timeout-s", "600"]  # a busy machine is not a failure
        with serving(["-m", "service", "serve", "--port", "{port}", *flags], cores=CORES) as port:
            asyncio.run(soak(port, minutes))


if __name__ == "__main__":
    main()
