"""Compares our worker with the genuine bert-serving-server 1.10: the same checkpoint, machine and client, in turns.

The model is BERT-base (12 layers × 768) with random weights, or the one that --model-dir names. Every round starts each
server, requests the same texts and stops it. At the end, the medians of all rounds and their ratios to the genuine
server are printed, with the machine's arithmetic limit (needs a C compiler).

  list       all texts in lists of 256: texts/s
    one text   one client, one text at a time: p50 and p99 in ms
    8 clients  each one text at a time, together: texts/s
  behind     one text at a time while a client sends lists of 2,048: p50 in ms
  memory     resident, all processes of the server together, at the end: MiB

    make classic
    .venv/bin/python benchmarks/workers.py --classic .venv-classic/bin/python --danmaku corpus/heldout.txt
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import zmq
from arithmetic import ArithmeticLimit
from bert_serving.client import BertClient
from material import random_base_model, read_texts

from service.model_directory import BertConfig
from service.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
LIST_TEXTS = 256
CLIENTS = 8
SAMPLE = 256  # texts whose vectors are compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classic", help="a Python with bert-serving-server; by default only ours is measured")
    parser.add_argument("--danmaku", type=Path, help="one danmaku per line; default: pairs of words")
    parser.add_argument("--model-dir", type=Path, help="default: BERT-base with random weights")
    parser.add_argument("--texts", type=int, default=1024, help="texts of the lists [1024]")
    parser.add_argument("--singles", type=int, default=100, help="requests with one text at a time [100]")
    parser.add_argument("--seconds", type=float, default=8, help="duration of the 8 clients and of the mixed load [8]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flags", default="", help='more flags for ours, such as --flags="-num_worker 2"')
    parser.add_argument("--json", type=Path, help="also write the figures to FILE")
    arguments = parser.parse_args()
    texts = read_texts(arguments.danmaku, arguments.texts + arguments.singles)
    lists, singles = texts[: arguments.texts], texts[arguments.texts :]
    with tempfile.TemporaryDirectory() as work:
        model = arguments.model_dir or random_base_model(Path(work))
        checkpoint = next(model.glob("*.index")).stem
        flags = ["-model_dir", str(model), "-ckpt_name", checkpoint, "-cpu"]
        servers = {"genuine": [arguments.classic, "-m", "service.classic", *flags]} if arguments.classic else {}
        ours = [sys.executable, "-m", "service", "worker", *flags, *arguments.flags.split()]
        servers |= {"float32": ours, "int8": [*ours, "-precision", "int8"]}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        vectors: dict[str, np.ndarray] = {}
        limits, limit = [], ArithmeticLimit(os.cpu_count() or 1)
        for number in range(arguments.rounds):
            limits.append(limit.measure())
            for name, command in servers.items():
                figures, vectors[name] = measure(command, lists, singles, arguments.seconds)
                rounds[name].append(figures)
                shown = ", ".join(f"{key} {value:,.1f}" for key, value in figures.items())
                print(f"round {number + 1}, {name}: {shown}", flush=True)
        report(rounds, vectors, limits, texts, model)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rounds, "flops": limits}, indent=1) + "\n", encoding="utf-8")


def measure(
    command: Sequence[str], lists: Sequence[str], singles: Sequence[str], seconds: float
) -> tuple[dict[str, float], np.ndarray]:
    ports = free_ports(2)
    command = [*command, "-port", str(ports[0]), "-port_out", str(ports[1])]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(server, ports) as client:
            client.encode(list(lists[:LIST_TEXTS]))  # the first call of a kind allocates
            client.encode([singles[0]])
            started = time.perf_counter()
            vectors = [client.encode(list(lists[at : at + LIST_TEXTS])) for at in range(0, len(lists), LIST_TEXTS)]
            rate = len(lists) / (time.perf_counter() - started)
            waits = [measure_seconds(client, text) for text in singles]
            together = clients_together(ports, singles, seconds)
            behind = behind_lists(ports, client, lists, singles, seconds)
            return {
                "list, texts/s": rate,
                "one text, p50 ms": 1000 * statistics.median(waits),
                "one text, p99 ms": 1000 * statistics.quantiles(waits, n=100)[98],
                "8 clients, texts/s": together,
                "behind lists, p50 ms": 1000 * behind,
                "memory, MiB": resident(server) / 2**20,
            }, np.concatenate(vectors)[:SAMPLE]
    finally:
        server.terminate()
        server.wait(timeout=60)


def measure_seconds(client: BertClient, text: str) -> float:
    started = time.perf_counter()
    client.encode([text])
    return time.perf_counter() - started


def clients_together(ports: Sequence[int], texts: Sequence[str], seconds: float) -> float:
    """Measures texts per second of CLIENTS clients that send one text at a time."""
    end = time.perf_counter() + seconds

    def ask(number: int) -> int:
        done = 0
        with BertClient(port=ports[0], port_out=ports[1], timeout=60_000, check_length=False) as client:
            while time.perf_counter() < end:
                client.encode([texts[(number + done * CLIENTS) % len(texts)]])
                done += 1
        return done

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        done = sum(pool.map(ask, range(CLIENTS)))
    return done / (time.perf_counter() - started)


def behind_lists(
    ports: Sequence[int], client: BertClient, lists: Sequence[str], singles: Sequence[str], seconds: float
) -> float:
    """Measures the median time of one text while long lists are being encoded."""
    stop = threading.Event()

    def send_lists() -> None:
        # The texts differ, or the second half of the list would already be in flight.
        long = [f"{text} {number}" for number in range(2048 // len(lists) + 1) for text in lists][:2048]
        with BertClient(port=ports[0], port_out=ports[1], timeout=600_000, check_length=False) as bulk:
            while not stop.is_set():
                bulk.encode(long)

    thread = threading.Thread(target=send_lists)
    thread.start()
    time.sleep(1)
    waits, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end and len(waits) < len(singles):
        waits.append(measure_seconds(client, singles[len(waits)]))
    stop.set()
    thread.join()
    return statistics.median(waits)


def resident(server: subprocess.Popen[bytes]) -> int:
    process = psutil.Process(server.pid)
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def connect(server: subprocess.Popen[bytes], ports: Sequence[int]) -> BertClient:
    while server.poll() is None:
        client = BertClient(port=ports[0], port_out=ports[1], timeout=500, ignore_all_checks=True)
        try:
            client.server_config  # noqa: B018
            client.timeout = 600_000
            return client
        except (TimeoutError, zmq.ZMQError):
            client.close()
    raise SystemExit(f"the server ended with {server.returncode}: {server.args}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def operations_per_text(model: Path, texts: Sequence[str]) -> float:
    """Counts the operations of a text's matrix products, without padding, in all layers but the last one."""
    config = BertConfig.from_json_file(model / "bert_config.json")
    tokenizer = Tokenizer.from_file(model / "vocab.txt")
    h, i, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers - 1  # pooling_layer −2
    lengths = [min(len(ids) + 2, 25) for ids in tokenizer.ids(list(texts))]
    return statistics.mean(2 * layers * (t * (4 * h * h + 2 * h * i) + 2 * t * t * h) for t in lengths)


def report(
    rounds: dict[str, list[dict[str, float]]],
    vectors: dict[str, np.ndarray],
    limits: Sequence[float],
    texts: Sequence[str],
    model: Path,
) -> None:
    limit, work = statistics.median(limits), operations_per_text(model, texts)
    print(
        f"\n{len(texts)} danmaku of {statistics.mean(map(len, texts)):.1f} characters, {os.cpu_count()} cores, medians"
    )
    medians = {
        name: {key: statistics.median(figures[key] for figures in values) for key in values[0]}
        for name, values in rounds.items()
    }
    genuine = medians.get("genuine")
    for key in next(iter(medians.values())):
        print(f"  {key}")
        for name, figures in medians.items():
            values = [figure[key] for figure in rounds[name]]
            ratio = f"   × {max(figures[key], genuine[key]) / min(figures[key], genuine[key]):.1f}" if genuine else ""
            print(f"    {name:10} {figures[key]:10,.1f}   ({min(values):,.1f} to {max(values):,.1f}){ratio}")
    print(
        f"  arithmetic limit {limit / 1e9:,.0f} GFLOP/s (float32, {min(limits) / 1e9:,.0f} to {max(limits) / 1e9:,.0f})"
    )
    for name, figures in medians.items():
        print(f"    {name:10} reaches {figures['list, texts/s'] * work / limit:.0%} of it")
    reference = vectors.get("genuine", vectors["float32"])
    for name, mine in vectors.items():
        cosines = (mine * reference).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(reference, axis=1)
        difference = np.abs(mine - reference).max()
        print(f"  {name}: largest difference {difference:.1e}, smallest cosine {cosines.min():.5f}")


if __name__ == "__main__":
    main()
