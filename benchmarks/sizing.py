"""Measures the cost of a text: processor time of a gateway and a worker, and memory of both and of Redis.

docs/operations.md bases its sizing on these figures. Also counts the danmaku of a corpus's busiest minute and the hit
rates of caches. It measures processor time, which determines the number of cores and hardly depends on other load. One
client sends lists one after another, with a Redis, and BERT-base with random weights (`--base`) or the bundled model.

    .venv/bin/python benchmarks/sizing.py --corpus danmaku_dataset
    .venv/bin/python benchmarks/sizing.py --corpus danmaku_dataset --base --texts 2000
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import redis
from gateway import CORES, connect, free_port, running_redis, serving
from material import ROOT, random_base_model
from replay import hit_rate, read_latest

LENGTHS = (64, 16, 1)  # of lists
ENTRIES = (10_000, 100_000, 1_000_000)  # of a cache
POSTED_AT = re.compile(r",(\d{4}-\d\d-\d\d \d\d:\d\d):\d\d$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of CSV files: text,seconds,posted at")
    parser.add_argument("--base", action="store_true", help="BERT-base in int8 rather than the bundled model")
    parser.add_argument("--texts", type=int, default=12_000, help="distinct texts to embed [12000]")
    parser.add_argument("--all", action="store_true", help="also the busiest minute and hit rates, which takes minutes")
    arguments = parser.parse_args()
    texts = list(dict.fromkeys(read_latest(arguments.corpus, 4 * arguments.texts)))[: arguments.texts]
    with tempfile.TemporaryDirectory() as directory:
        model = random_base_model(Path(directory)) if arguments.base else ROOT / "models" / "danmaku-bert-mini"
        cost(model, "int8" if arguments.base else "float32", texts)
    if arguments.all:
        describe_corpus(arguments.corpus)


def cost(model: Path, precision: str, texts: Sequence[str]) -> None:
    port, port_out = free_port(), free_port()
    flags = f"-model_dir {model} -precision {precision} -allow_inexact -max_seq_len NONE -num_worker {len(CORES)}"
    worker = f"-m service worker {flags} -port {port} -port_out {port_out} -http_port {{port}}".split()
    gateway = (
        f"-m service serve --encoder bert://127.0.0.1:{port}:{port_out} --collections none --port {{port}}".split()
    )
    with ExitStack() as stack:
        store = redis.Redis.from_url(url := stack.enter_context(running_redis()))
        ports = [stack.enter_context(serving(worker, cores=CORES, ready="/status/server"))]
        ports.append(stack.enter_context(serving([*gateway, "--cache", url], cores=CORES)))
        workers, gateways = (listening(each) for each in ports)
        empty = store.info("memory")["used_memory"]
        connection = connect(ports[1])
        for length, part in zip(LENGTHS, parts(texts), strict=True):
            for name in ("new", "known"):
                before = [seconds(process) for process in (gateways, workers)]
                embed(connection, part, length)
                spent = [seconds(process) - then for process, then in zip((gateways, workers), before, strict=True)]
                rates = ", ".join(
                    f"{len(part) / each:,.0f} a second of a {process}'s core"
                    for process, each in zip(("gateway", "worker"), spent, strict=True)
                    if each > 0.05
                )
                if rates:
                    print(f"{name} texts in lists of {length}: {rates}", flush=True)
        time.sleep(2)  # Redis is written to after the answers
        kept = store.info("memory")["used_memory"] - empty
        print(f"Redis: {kept / store.dbsize():,.0f} bytes a text")
        for name, process in (("gateway", gateways), ("worker", workers)):
            print(f"{name}: {process.memory_info().rss / 2**20:,.0f} MiB")


def parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Splits texts into parts that take about the same time."""
    first, second = len(texts) * 6 // 10, len(texts) * 9 // 10
    yield from (texts[:first], texts[first:second], texts[second:])


def embed(connection: http.client.HTTPConnection, texts: Sequence[str], length: int) -> None:
    for start in range(0, len(texts), length):
        connection.request("POST", "/embed", json.dumps({"texts": texts[start : start + length], "encoding": "base64"}))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {body[:200]!r}")


def listening(port: int) -> psutil.Process:
    (found,) = {
        each.pid
        for each in psutil.net_connections()
        if each.laddr and each.laddr.port == port and each.status == "LISTEN"
    }
    return psutil.Process(found)


def seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def describe_corpus(corpus: Path) -> None:
    minutes: Counter[str] = Counter()
    for path in corpus.rglob("*.csv"):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if match := POSTED_AT.search(line):
                minutes[match[1]] += 1
    minute, count = minutes.most_common(1)[0]
    print(f"{minutes.total():,} danmaku; {count} in the busiest minute, {minute}: {count / 60:.1f} a second")
    texts = read_latest(corpus, minutes.total())
    for entries in ENTRIES:
        print(f"a cache of {entries:,} texts would have had {hit_rate(texts, entries):.1%}", flush=True)


if __name__ == "__main__":
    main()
