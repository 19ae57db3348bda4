"""The gateway's speed over HTTP on loopback, with the bundled model: server and client share this machine's cores.

Medians of `--rounds` rounds, each against a gateway started afresh:
  not cached   lists of 64 texts never seen before, 4 clients
  one text     a text never seen before, one client: time from request to answer
  cached       the same lists of 16 texts again and again, 4 clients, JSON and base64
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from material import read_texts

ROOT = Path(__file__).parents[1]
CLIENTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--danmaku", type=Path, help="a danmaku a line; default: pairs of training/words.txt")
    parser.add_argument("--texts", type=int, default=4096, help="distinct texts [4096]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--encoder", default="onnx://models/danmaku-bert-mini")
    arguments = parser.parse_args()
    texts = read_texts(arguments.danmaku, arguments.texts)
    singles, lists = texts[:500], texts[500:]
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(measure(arguments.encoder, singles, lists))
        print(f"round {number + 1}: " + ", ".join(f"{name} {value:,.2f}" for name, value in rounds[-1].items()))
    characters = statistics.mean(map(len, texts))
    print(f"\n{len(texts)} distinct texts of {characters:.1f} characters, {os.cpu_count()} cores, medians:")
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        print(f"  {name:32} {statistics.median(values):10,.2f}   ({min(values):,.2f} to {max(values):,.2f})")


def measure(encoder: str, singles: Sequence[str], lists: Sequence[str]) -> dict[str, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--encoder", encoder]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(server, port)
        alone = connect(port)
        waits = [timed(partial(post, alone, [text])) for text in singles]
        fresh = [lists[start : start + 64] for start in range(0, len(lists), 64)]
        known = [lists[start : start + 16] for start in range(0, 2048, 16)] * 10
        return {
            "not cached, texts/s": throughput(port, fresh, "float"),
            "one text not cached, p50 ms": 1000 * statistics.median(waits),
            "one text not cached, p99 ms": 1000 * statistics.quantiles(waits, n=100)[98],
            "cached, JSON, texts/s": throughput(port, known, "float"),
            "cached, base64, texts/s": throughput(port, known, "base64"),
        }
    finally:
        server.terminate()
        server.wait()


def throughput(port: int, lists: Sequence[Sequence[str]], encoding: str) -> float:
    """Texts per second of CLIENTS clients that share the lists."""

    def ask(part: Sequence[Sequence[str]]) -> None:
        connection = connect(port)
        for texts in part:
            post(connection, {"texts": texts, "encoding": encoding})

    parts = [lists[client::CLIENTS] for client in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        elapsed = timed(lambda: list(clients.map(ask, parts)))
    return sum(map(len, lists)) / elapsed


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def post(connection: http.client.HTTPConnection, body: object) -> None:
    connection.request("POST", "/embed", json.dumps(body).encode(), {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise RuntimeError(f"the gateway answered {answer.status}")


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    while server.poll() is None:
        try:
            connection = connect(port)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the gateway did not start")


if __name__ == "__main__":
    main()
