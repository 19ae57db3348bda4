"""Measures the gateway's speed over HTTP on loopback. The server has one core; wrk and Redis have the others.

Each round runs these, each against a newly started server:
  cached       lists of 16 texts that the gateway knows, 768 dimensions, from memory and from Redis; the reference is a
               plain ASGI application in the same uvicorn that only reads the body and sends as many bytes
  not cached   one new text at a time, against the bare encoder in this process, and against sending as many bytes to
               the plain application; and lists of 64
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from material import random_base_model, read_texts

from service.encoders.open import EncoderSettings, open_encoder
from service.metrics import Metrics

ROOT = Path(__file__).parents[1]
TEXTS_A_REQUEST = 16
CONNECTIONS = 16
CLIENTS = 4
SINGLES = 500
CORES = sorted(os.sched_getaffinity(0))

REFERENCE = """
import sys

import uvicorn

SIZE = int(sys.argv[2])
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % SIZE)]


async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


uvicorn.run(app, port=int(sys.argv[1]), lifespan="off", access_log=False, log_level="warning")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--danmaku", type=Path, help="one danmaku per line; default: pairs of words")
    parser.add_argument("--encoder", default="onnx://models/danmaku-bert-mini", help="for uncached texts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each measurement with wrk [5]")
    arguments = parser.parse_args()
    for program in ("wrk", "redis-server"):
        if not shutil.which(program):
            parser.error(f"{program} is not installed; on Debian: apt-get install {program}")
    texts = read_texts(arguments.danmaku, 4096)
    rounds = []
    with tempfile.TemporaryDirectory() as directory:
        wide = random_base_model(Path(directory), num_hidden_layers=1)
        for number in range(arguments.rounds):
            figures = measure_cached(wide, texts[:2048], arguments.seconds) | measure_uncached(arguments.encoder, texts)
            rounds.append(figures)
            shown = ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())
            print(f"round {number + 1}: {shown}", flush=True)
    print(f"\n{len(texts)} distinct texts of {statistics.mean(map(len, texts)):.1f} characters, medians:")
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        print(f"  {name:44} {statistics.median(values):12,.2f}   ({min(values):,.2f} to {max(values):,.2f})")


def measure_cached(model: Path, texts: Sequence[str], seconds: int) -> dict[str, float]:
    figures = {}
    lists = [texts[start : start + TEXTS_A_REQUEST] for start in range(0, len(texts), TEXTS_A_REQUEST)]
    bodies = {encoding: [{"texts": part, "encoding": encoding} for part in lists] for encoding in ("base64", "float")}
    gateway = [*f"-m service serve --encoder onnx://{model} --pooling-layer -1 --threads 1".split(), "--port"]
    with running_redis() as redis:
        for name, flags in (("memory", []), ("Redis", ["--cache", redis, "--cache-bytes", "0"])):
            with serving([*gateway, "{port}", *flags]) as port:
                for encoding, these in bodies.items():
                    size = len(ask(port, these[0]))
                    for body in these:  # to be cached
                        ask(port, body)
                    time.sleep(1)  # Redis is written to after the answers
                    rate = wrk(port, these, seconds)
                    figures[f"cached in {name}, {encoding}, texts/s"] = rate
                    with serving(["-c", REFERENCE, "{port}", str(size)]) as reference:
                        plain = wrk(reference, these, seconds)
                    figures[f"plain ASGI, as many bytes, {encoding}, beside {name}, texts/s"] = plain
                    figures[f"cached in {name}, {encoding}, of plain ASGI"] = rate / plain
    return figures


def measure_uncached(encoder: str, texts: Sequence[str]) -> dict[str, float]:
    singles, lists = texts[:SINGLES], [texts[start : start + 64] for start in range(SINGLES, len(texts), 64)]
    bare = asyncio.run(encode_one_by_one(encoder, singles))
    with serving(["-m", "service", "serve", "--port", "{port}", "--encoder", encoder], cores=CORES) as port:
        size, waits = one_by_one(port, singles)
        started = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(partial(ask_in_turn, port), [lists[client::CLIENTS] for client in range(CLIENTS)]))
        elapsed = time.perf_counter() - started
    with serving(["-c", REFERENCE, "{port}", str(size)], cores=CORES) as port:
        _, trips = one_by_one(port, singles)
    figures = {}
    for name, quantile in (("p50", 49), ("p99", 98)):
        of_gateway, of_encoder, of_trip = (
            1000 * statistics.quantiles(values, n=100)[quantile] for values in (waits, bare, trips)
        )
        figures[f"one text not cached, {name} ms"] = of_gateway
        figures[f"the same by the bare encoder, {name} ms"] = of_encoder
        figures[f"client, HTTP and plain ASGI, {name} ms"] = of_trip
        figures[f"over the bare encoder, {name} ms"] = of_gateway - of_encoder
    return figures | {"not cached, lists of 64, texts/s": sum(map(len, lists)) / elapsed}


def one_by_one(port: int, texts: Sequence[str]) -> tuple[int, list[float]]:
    """Returns the size of the last response and the seconds of each, measured with a minimal HTTP client."""
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    waits, length = [], 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for text in texts:
            body = json.dumps([text]).encode()
            started = time.perf_counter()
            connection.sendall(head % len(body) + body)
            answer, whole = b"", sys.maxsize
            while len(answer) < whole:
                piece = connection.recv(2**16)
                if not piece:
                    raise RuntimeError(f"the connection ended after {answer[:200]!r}")
                answer += piece
                if whole == sys.maxsize and (end := answer.find(b"\r\n\r\n")) >= 0:
                    length = int(answer[:end].lower().partition(b"content-length: ")[2].split(b"\r")[0])
                    whole = end + 4 + length
            waits.append(time.perf_counter() - started)
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(answer[:200])
    return length, waits


async def encode_one_by_one(url: str, texts: Sequence[str]) -> list[float]:
    encoder = await open_encoder(url, EncoderSettings(threads=len(CORES)), Metrics())
    reader, waits = encoder.model.reader, []
    for text in texts:
        started = time.perf_counter()
        await encoder.encode(reader.prepare_normalized([reader.normalize(text)]))
        waits.append(time.perf_counter() - started)
    await encoder.aclose()
    return waits


def wrk(port: int, bodies: Sequence[object], seconds: int) -> float:
    """Measures texts per second, after a second of warm-up."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(body) + "\n" for body in bodies)
        file.flush()
        script = str(Path(__file__).with_name("post.lua"))
        for duration in (1, seconds):
            command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration}", "-s", script]
            command += [f"http://127.0.0.1:{port}/embed", "--", file.name]
            said = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=others).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate, said
    return float(rate.group(1)) * TEXTS_A_REQUEST


def others() -> None:
    os.sched_setaffinity(0, CORES[1:] or CORES)


@contextlib.contextmanager
def serving(
    command: Sequence[str],
    *,
    cores: Sequence[int] = CORES[:1],
    python: str = sys.executable,
    ready: str = "/readyz",
    root: Path = ROOT,
) -> Iterator[int]:
    """Runs Python with the arguments, replacing `{port}`; waits until `ready` answers 200.

    `root` is the checkout whose code runs.
    """
    port = free_port()
    server = subprocess.Popen(
        [python, *(part.replace("{port}", str(port)) for part in command)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = connect(port)
                connection.request("GET", ready)
                if connection.getresponse().status == 200:
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"{command} did not start")
        yield port
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def running_redis() -> Iterator[str]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=others)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def ask(port: int, body: object) -> bytes:
    return post(connect(port), body)


def ask_in_turn(port: int, bodies: Sequence[object]) -> None:
    connection = connect(port)
    for body in bodies:
        post(connection, body)


def post(connection: http.client.HTTPConnection, body: object) -> bytes:
    connection.request("POST", "/embed", json.dumps(body).encode(), {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"the gateway answered {answer.status}: {content[:200]!r}")
    return content


if __name__ == "__main__":
    main()
