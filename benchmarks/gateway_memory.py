"""Measures the gateway's memory while new danmaku go through a small cache: resident size after each tenth.

The model is tiny (one layer of 64), so that the cache dominates: by default it is full after the first tenth.

    .venv/bin/python benchmarks/gateway_memory.py --corpus danmaku_dataset
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway import CORES, connect, post, serving
from material import random_base_model
from metrics import listening
from replay import POSTED_AT

from service.cache.memory import ENTRY_OVERHEAD

DIM = 64
CLIENTS = 4
TEXTS_A_REQUEST = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of CSV files: text,seconds,posted at")
    parser.add_argument("--texts", type=int, default=1_000_000, help="distinct texts [1000000]")
    parser.add_argument("--cache-entries", type=int, default=100_000, help="[100000]")
    arguments = parser.parse_args()
    texts = itertools.islice(distinct(arguments.corpus), arguments.texts)
    with tempfile.TemporaryDirectory() as directory:
        model = random_base_model(
            Path(directory), num_hidden_layers=1, hidden_size=DIM, num_attention_heads=1, intermediate_size=DIM
        )
        cache_bytes = arguments.cache_entries * (DIM * 4 + 33 + 94 + ENTRY_OVERHEAD)
        flags = f"--encoder onnx://{model} --pooling-layer -1 --cache-bytes {cache_bytes}".split()
        with serving(["-m", "service", "serve", "--port", "{port}", *flags], cores=CORES) as port:
            gateway = listening(port)
            for tenth in range(1, 11):
                sent = send(port, itertools.islice(texts, arguments.texts // 10))
                resident = gateway.memory_info().rss / 2**20
                print(f"{tenth * sent:10,} danmaku: {resident:7.1f} MiB, {cached(port):,} in the cache", flush=True)


def distinct(corpus: Path) -> Iterator[str]:
    seen: set[str] = set()
    for path in sorted(corpus.rglob("*.csv")):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if (match := POSTED_AT.fullmatch(line)) and match[1].strip() and match[1] not in seen:
                seen.add(match[1])
                yield match[1]


def send(port: int, texts: Iterator[str]) -> int:
    connections = [connect(port) for _ in range(CLIENTS)]
    lists = iter(lambda: list(itertools.islice(texts, TEXTS_A_REQUEST)), [])
    sent = 0
    with ThreadPoolExecutor(CLIENTS) as threads:
        while some := list(itertools.islice(lists, CLIENTS)):
            bodies = [{"texts": part, "encoding": "base64"} for part in some]
            list(threads.map(post, connections, bodies))
            sent += sum(map(len, some))
    return sent


def cached(port: int) -> int:
    connection = connect(port)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("danmaku_cache_texts "))))


if __name__ == "__main__":
    main()
