"""Random hostile input, while a well-behaved client is served: a tenth of it here, all of it with `make attack`."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import orjson
import pytest
import zmq
from processes import serving, working

from service.worker.probe import probe

SCALE = int(os.environ.get("ATTACKS", "1"))  # 10 is all
HTTP_REQUESTS, WIRE_MESSAGES = 1000 * SCALE, 1000 * SCALE
AT_A_TIME = 4
RATE = 20  # requests a second of the well-behaved client
QUIET_S = 5

Choice = Callable[[random.Random], bytes]
PATHS = (
    *("/embed", "/embed?encoding=base64", "/similar", "/tokenize", "/encode", "/v1/embeddings", "/playground/embed"),
    *("/collections", "/collections/room", "/collections/room/danmaku", "/collections/room/delete", "/collections/;/"),
    *("/collections/room/rebuild", "/collections/room/map", "/collections/%00/danmaku/%ff", "/status/server"),
    *("/docs", "/openapi.json", "/static/../../etc/passwd", "/metrics", "/healthz/", "/" + "a" * 3000),
)
HEADERS = (
    {},
    {"content-type": "application/json"},
    {"content-type": "application/x-ndjson"},
    {"content-type": "text/plain", "origin": "http://evil.example"},
    {"content-encoding": "gzip", "content-type": "application/json"},
    {"content-encoding": "br"},
    {"host": "evil.example"},
    {"x-timeout-ms": "0"},
    {"x-timeout-ms": "1", "content-type": "application/json"},
    {"x-request-id": "a b"},
    {"accept": "application/x-npy", "content-type": "application/json"},
    {"sec-fetch-site": "cross-site"},
)
BODIES: tuple[Choice, ...] = (
    lambda _: b"",
    lambda dice: dice.randbytes(dice.randrange(2000)),
    lambda dice: b"[" * dice.randrange(3000),
    lambda dice: b"[" + b",".join([b"1"] * dice.randrange(1, 100_000)) + b"]",
    lambda dice: gzip.compress(b"[" + b",".join([b"1"] * dice.randrange(1, 300_000)) + b"]"),
    lambda dice: gzip.compress(b"") * dice.randrange(1, 1000),
    lambda dice: b'{"texts":["\\ud800", "", " ", "\\u0000"], "normalize": %d}' % dice.randrange(3),
    lambda dice: orjson.dumps({"query": ["a"] * dice.randrange(50), "candidates": ["b"] * dice.randrange(50)}),
    lambda dice: orjson.dumps({"query": "a", "collection": "room", "filter": _random_json(dice, 5)}),
    lambda dice: orjson.dumps({"collection": "room", "vector": [1e300] * dice.randrange(300)}),
    lambda dice: orjson.dumps({"filter": {"and": [{}] * dice.randrange(1000)}}),
    lambda dice: orjson.dumps([{"text": "a", "metadata": {"b": _random_json(dice, dice.randrange(60))}}]),
    lambda dice: orjson.dumps(_random_json(dice, 4)),
    lambda dice: b"\n".join(orjson.dumps(_random_json(dice, 2)) for _ in range(dice.randrange(100))),
    lambda dice: orjson.dumps({"id": _random_json(dice, 3), "texts": ["a"] * dice.randrange(20)}),
    lambda dice: orjson.dumps({"input": "a", "model": "danmaku-bert-mini", "dimensions": dice.randrange(-2, 400)}),
    lambda _: b'{"texts": [' + b"9" * 5000 + b"]}",
)


def _random_json(dice: random.Random, levels: int) -> object:
    kind = dice.randrange(8) if levels else dice.randrange(5)
    plain: tuple[object, ...] = (None, True, dice.randrange(-(2**40), 2**40), dice.random(), "草" * dice.randrange(20))
    if kind < 5:
        return plain[kind] if levels < 6 else [_random_json(dice, levels - 1)]
    inner = [_random_json(dice, levels - 1) for _ in range(dice.randrange(1, 4))]
    names = ("and", "or", "not", "in", "gte", "room", "text", "id", "metadata", "ttl_s", "")
    return inner if kind == 5 else {dice.choice(names): each for each in inner}


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
    flags = ("--collections", f"sqlite://{tmp_path}", "--threads", "1")
    with serving(*flags) as (gateway, process):
        url = gateway.base_url
        gateway.put("/collections/room")
        quiet: list[float] = []
        loud: list[float] = []
        failures: list[str] = []
        statuses: Counter[int] = Counter()
        async with httpx.AsyncClient(base_url=url, timeout=60) as http, httpx.AsyncClient(base_url=url) as hostile:
            steady = asyncio.create_task(ask_steadily(http, quiet, failures))
            await asyncio.sleep(QUIET_S)
            steady.cancel()
            steady = asyncio.create_task(ask_steadily(http, loud, failures))
            seeds = iter(range(HTTP_REQUESTS))

            async def attack() -> None:
                for seed in seeds:
                    dice = random.Random(seed)
                    method = dice.choice(("POST", "POST", "POST", "GET", "PUT", "DELETE", "PATCH"))
                    path, headers, body = dice.choice(PATHS), dice.choice(HEADERS), dice.choice(BODIES)(dice)
                    try:
                        answer = await hostile.request(method, path, headers=headers, content=body, timeout=60)
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


@pytest.mark.timeout(300 * SCALE)
def test_hostile_messages_leave_a_worker_answering(tiny_model: Path) -> None:
    dice = random.Random(0)
    parts: tuple[Choice, ...] = (
        lambda _: b"",
        lambda dice: dice.randbytes(dice.randrange(300)),
        lambda _: b"SHOW_VOCAB",
        lambda _: b"SHOW_STATUS",
        lambda _: b"TERMINATION",
        lambda _: json.dumps(["草", "awsl"]).encode(),
        lambda dice: json.dumps([""] * dice.randrange(20_000)).encode(),
        lambda dice: b"[" * dice.randrange(3000),
        lambda dice: str(dice.randrange(-5, 10**6)).encode(),
        lambda _: b"1#2@3",
    )
    with working(tiny_model) as worker, zmq.Context() as context:
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
                frames = [dice.choice((b"deaf", b"x", b"")), *(dice.choice(parts)(dice) for _ in range(3))]
                pushing.send_multipart(frames[: dice.randrange(1, 6)])
                if number % 100 == 0:
                    probe(worker.url, timeout_s=10)
            assert worker.process.poll() is None
            with worker.client() as client:
                assert client.encode(["草"]).shape[0] == 1
        finally:
            pushing.close()
            for subscriber in deaf:
                subscriber.close()
