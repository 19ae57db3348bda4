"""Measures the cost of metrics: reading them, and counting while a request is answered from the cache.

* Scrapes: GET /metrics of a gateway with a filled cache and its default collection, and of a worker, over HTTP.
* Counting: a request for 16 cached texts as the application sees it (ASGI without HTTP), with all metrics, and
  with counting replaced by nothing, in short alternating rounds.

Waiting is measured by the clock, work in processor time, which other load on the machine affects less.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import orjson
import psutil
from gateway import ROOT, connect, free_port, post, serving
from material import read_texts
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import Message, Scope

from service.app import create_app
from service.settings import Settings
from service.worker.probe import probe

MODEL = "models/danmaku-bert-mini"
COUNTED = ((Counter, "inc"), (Gauge, "inc"), (Gauge, "dec"), (Gauge, "set"), (Histogram, "observe"))
TEXTS_A_REQUEST = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scrapes", type=int, default=200, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=400, help="rounds of counting [%(default)s]")
    parser.add_argument("--requests", type=int, default=50, help="requests per round [%(default)s]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scrape_gateway(arguments.scrapes, Path(directory))
    scrape_worker(arguments.scrapes)
    asyncio.run(counting(arguments.rounds, arguments.requests))


def scrape_gateway(scrapes: int, directory: Path) -> None:
    texts = read_texts(None, 4096)
    command = f"-m service serve --encoder onnx://{MODEL} --collections sqlite:///{directory} --port {{port}}"
    with serving(command.split()) as port:
        connection = connect(port)
        for start in range(0, len(texts), 256):
            post(connection, texts[start : start + 256])
        scrape("gateway", listening(port), connection, scrapes)


def scrape_worker(scrapes: int) -> None:
    port, port_out, metrics_port = free_port(), free_port(), free_port()
    command = [sys.executable, "-m", "service", "worker", "-model_dir", MODEL, "-port", str(port)]
    command += ["-port_out", str(port_out), "-metrics_port", str(metrics_port)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        probe(f"bert://127.0.0.1:{port}:{port_out}", timeout_s=60)
        scrape("worker", psutil.Process(process.pid), connect(metrics_port), scrapes)
    finally:
        process.terminate()
        process.wait()


def scrape(name: str, process: psutil.Process, connection: http.client.HTTPConnection, scrapes: int) -> None:
    waits, size, before = [], 0, cpu_s(process)
    for _ in range(scrapes):
        started = time.perf_counter()
        connection.request("GET", "/metrics")
        size = len(connection.getresponse().read())
        waits.append(1000 * (time.perf_counter() - started))
    busy = 1000 * (cpu_s(process) - before) / scrapes
    percentiles = statistics.quantiles(waits, n=100)
    shown = f"p50 {percentiles[49]:.1f} ms, p99 {percentiles[98]:.1f} ms, of processor time {busy:.1f} ms"
    print(f"/metrics of a {name}: {shown}; {size:,} bytes", flush=True)


def listening(port: int) -> psutil.Process:
    connections = psutil.net_connections("tcp")
    return psutil.Process(next(c.pid for c in connections if c.laddr.port == port and c.status == "LISTEN"))


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def counting(rounds: int, requests: int) -> None:
    texts = read_texts(None, TEXTS_A_REQUEST)
    body = orjson.dumps({"texts": texts, "encoding": "base64"})
    app = create_app(Settings(encoder=f"onnx://{MODEL}", collections="none", access_log=False))
    times: dict[str, list[float]] = {"with": [], "without": []}
    async with app.router.lifespan_context(app):
        await app.state.danmaku.embedder.embed(texts)  # to be cached

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            assert message.get("status", 200) == 200

        async def ask(number: int) -> float:
            """Returns microseconds of processor time per request."""
            started = time.process_time()
            for _ in range(number):
                await app(scope(len(body)), receive, send)
            return 1e6 * (time.process_time() - started) / number

        await ask(20 * requests)  # to be warm
        for _ in range(rounds):
            times["with"].append(await ask(requests))
            with ExitStack() as stack:
                for kind, method in COUNTED:
                    stack.enter_context(mock.patch.object(kind, method, lambda *_: None))
                times["without"].append(await ask(requests))
    whole, bare = (statistics.median(times[name]) for name in ("with", "without"))
    shares = [1 - without / with_ for with_, without in zip(times["with"], times["without"], strict=True)]
    low, middle, high = (f"{100 * share:.1f}" for share in statistics.quantiles(shares, n=4))
    print(f"a request for {TEXTS_A_REQUEST} cached texts: {whole:.1f} µs, {bare:.1f} µs if nothing is counted")
    print(f"counting is {middle} % of it, in the middle half of {rounds} rounds {low} to {high} %")


def scope(length: int) -> Scope:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
    return {
        **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b""},
        **{"path": "/embed", "raw_path": b"/embed", "root_path": "", "headers": headers, "is_whole": True},
        **{"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000)},
    }


if __name__ == "__main__":
    main()
