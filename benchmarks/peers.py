"""Compares our gateway with infinity, which serves the same weights with PyTorch, in alternating rounds.

    lists      lists of 64 new texts from 4 callers: texts/s
    one        one new text at a time: p50 in ms
    32 callers each a new text at a time: texts/s, p50 and p99 in ms
    overload   lists of 64 at ten times the rate of `lists` for a few seconds, whatever the answers: which share of that
               rate was served meanwhile, how long a refusal took, and a single text sent every 0.1 s

Vectors are sent in base64. Infinity needs a separate environment:

    python3 -m venv .venv-infinity
    .venv-infinity/bin/pip install 'infinity-emb[server,torch,optimum,logging]==0.0.78' 'click<8.2'
    .venv/bin/python benchmarks/peers.py --infinity .venv-infinity/bin/infinity_emb
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from gateway import CORES, connect, free_port, serving
from material import ROOT, read_texts

MODEL = ROOT / "models/danmaku-bert-mini"
LIST, CALLERS, MANY = 64, 4, 32
OVERLOAD = 10
PROBE_EVERY_S = 0.1


@dataclass(frozen=True)
class Peer:
    url: str
    model: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--infinity", type=Path, help="infinity_emb of its environment; by default only ours")
    parser.add_argument("--danmaku", type=Path, help="one danmaku per line; default: pairs of words")
    parser.add_argument("--beside", type=Path, metavar="DIR", help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="seconds of each measurement [%(default)s]")
    arguments = parser.parse_args()
    texts = distinct(read_texts(arguments.danmaku, 1_000_000))
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        systems: dict[str, Callable[[], object]] = {"ours": ours}
        if arguments.beside:
            systems["beside"] = lambda: ours(arguments.beside.resolve())
        if arguments.infinity:
            exported = export(Path(directory) / "hf")
            systems["infinity"] = lambda: infinity(arguments.infinity.resolve(), exported)
        for number in range(arguments.rounds):
            for name, start in systems.items():
                with start() as peer:  # type: ignore[attr-defined]  # mypy takes the two context managers for objects
                    for figure, value in asyncio.run(measure(peer, texts, arguments.seconds)).items():
                        figures[figure, name].append(value)
            print(f"round {number + 1}", flush=True)
    for (figure, name), values in sorted(figures.items(), key=lambda each: each[0][0]):
        print(f"{figure:42} {name:9} {statistics.median(values):10,.1f}   ({min(values):,.1f} to {max(values):,.1f})")


def distinct(texts: Sequence[str]) -> Iterator[str]:
    yield from texts
    for number in itertools.count():
        yield from (f"{text}{number}" for text in texts)


def export(directory: Path) -> Path:
    code = "import sys; from training.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "export", "--model", str(MODEL), "--format", "huggingface"]
    subprocess.run([*command, "--output", str(directory)], cwd=ROOT, check=True, capture_output=True)
    return directory


@contextmanager
def ours(root: Path = ROOT) -> Iterator[Peer]:
    command = f"-m service serve --encoder onnx://{MODEL} --collections none --access-log false --port {{port}}"
    with serving(command.split(), cores=CORES, root=root) as port:
        yield Peer(f"http://127.0.0.1:{port}/v1/embeddings", MODEL.name)


@contextmanager
def infinity(program: Path, model: Path) -> Iterator[Peer]:
    port = free_port()
    command = [str(program), "v2", "--model-id", str(model), "--served-model-name", "peer", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--engine", "torch", "--device", "cpu", "--no-bettertransformer"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            try:
                connection = connect(port)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield Peer(f"http://127.0.0.1:{port}/embeddings", "peer")
    finally:
        process.terminate()
        process.wait()


async def measure(peer: Peer, texts: Iterator[str], seconds: float) -> dict[str, float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def ask(count: int) -> tuple[int, float]:
            """Returns the status and seconds of a request for this many new texts."""
            body = {"input": list(itertools.islice(texts, count)), "model": peer.model, "encoding_format": "base64"}
            started = time.perf_counter()
            async with http.post(peer.url, json=body) as answer:
                await answer.read()
                return answer.status, time.perf_counter() - started

        for _ in range(5):  # to be warm
            await ask(LIST)
        lists = await repeat(lambda: ask(LIST), CALLERS, seconds)
        capacity = len(lists) / seconds
        one = await repeat(lambda: ask(1), 1, seconds / 2)
        many = await repeat(lambda: ask(1), MANY, seconds)
        figures = {
            "1 lists of 64, texts/s": LIST * capacity,
            "2 one text, p50 ms": quantile(one, 50),
            "3 32 callers, texts/s": len(many) / seconds,
            "3 32 callers, p50 ms": quantile(many, 50),
            "3 32 callers, p99 ms": quantile(many, 99),
            "3 32 callers, p99 / p50": quantile(many, 99) / quantile(many, 50),
        }
        return figures | await overload(ask, OVERLOAD * capacity, seconds)


async def repeat(ask: Callable[[], Awaitable[tuple[int, float]]], callers: int, seconds: float) -> list[float]:
    """Returns the seconds of each request of some callers, each of which waits for its answers."""
    waits: list[float] = []
    end = time.perf_counter() + seconds

    async def call() -> None:
        while time.perf_counter() < end:
            status, waited = await ask()
            if status != 200:
                raise RuntimeError(f"status {status}")
            waits.append(waited)

    await asyncio.gather(*(call() for _ in range(callers)))
    return waits


async def overload(ask: Callable[[int], Awaitable[tuple[int, float]]], rate: float, seconds: float) -> dict[str, float]:
    served = 0
    refusals: list[float] = []
    probes: list[float] = []
    started = time.perf_counter()

    async def send() -> None:
        nonlocal served
        status, waited = await ask(LIST)
        if status == 200:
            served += time.perf_counter() < started + seconds
        else:
            refusals.append(waited)

    async def probe() -> None:
        status, waited = await ask(1)
        if status == 200:
            probes.append(waited)

    tasks = [asyncio.create_task(at(started + number / rate, send)) for number in range(int(rate * seconds))]
    due = np.arange(0, seconds, PROBE_EVERY_S)
    tasks += [asyncio.create_task(at(started + float(each), probe)) for each in due]
    await asyncio.gather(*tasks)
    return {
        "4 overload: served, % of capacity": 100 * served * OVERLOAD / (rate * seconds),
        "4 overload: a refusal, p50 ms": quantile(refusals, 50) if refusals else float("nan"),
        "4 overload: a single text, p50 ms": quantile(probes, 50) if probes else float("nan"),
    }


async def at(due: float, work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await work()


def quantile(waits: Sequence[float], percent: int) -> float:
    """Returns milliseconds."""
    return float(1000 * np.percentile(waits, percent))


if __name__ == "__main__":
    main()
