"""Replays danmaku in the order of posting to our gateway (int8, cold cache) and the genuine bert-serving-server 1.10.

The genuine server is measured by its HTTP endpoint. The two take turns, with one checkpoint and the same cores, also
for the clients. BERT-base (12 layers × 768) has random weights. CLIENTS clients post lists of 16; the genuine server
gets only the first `--genuine-texts`. The hit rate is printed beside that of a least-recently-used cache with as many
entries for the same danmaku.

    make classic
    .venv/bin/python benchmarks/replay.py --corpus danmaku_dataset --classic .venv-classic/bin/python
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import statistics
import tempfile
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from pathlib import Path

from gateway import CORES, connect, free_port, serving
from material import ROOT, random_base_model

from service.cache.memory import ENTRY_OVERHEAD
from service.tokenizer import Tokenizer

CLIENTS = 4
TEXTS_A_REQUEST = 16
DIM = 768
POSTED_AT = re.compile(r"(.*),[\d.]+,(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
LOOKUPS = r'^danmaku_cache_lookups_total{result="(\w+)",tier="memory"} (\S+)'
Ask = Callable[[Sequence[str]], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of CSV files: text,seconds,posted at")
    parser.add_argument("--classic", help="a Python with bert-serving-server; by default only ours is measured")
    parser.add_argument("--texts", type=int, default=50_000, help="number of latest texts of the corpus [50000]")
    parser.add_argument("--genuine-texts", type=int, default=5_000, help="[5000]")
    parser.add_argument("--cache-entries", type=int, default=10_000, help="[10000]")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    texts = read_latest(arguments.corpus, arguments.texts)
    print(f"{len(texts)} danmaku, {statistics.mean(map(len, texts)):.1f} characters, {len(CORES)} cores")
    expected = hit_rate(texts, arguments.cache_entries)
    with tempfile.TemporaryDirectory() as directory:
        model = random_base_model(Path(directory))
        for _ in range(arguments.rounds):
            ours = measure_gateway(model, texts, arguments.cache_entries)
            print(f"gateway, int8: {ours[0]:,.1f} texts/s, hit rate {ours[1]:.3f}, LRU of as many {expected:.3f}")
            if arguments.classic:
                genuine = measure_genuine(arguments.classic, model, texts[: arguments.genuine_texts])
                print(f"genuine /encode: {genuine:,.1f} texts/s; ours is {ours[0] / genuine:.1f} times that")


def read_latest(corpus: Path, count: int) -> list[str]:
    """Returns texts by time of posting, then in the order of files and lines."""

    def rows() -> Iterator[tuple[str, str]]:
        for path in sorted(corpus.rglob("*.csv")):
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                if (match := POSTED_AT.fullmatch(line)) and match[1].strip():
                    yield match[2], match[1]

    when = itemgetter(0)
    return [text for _, text in sorted(heapq.nlargest(count, rows(), key=when), key=when)]


def hit_rate(texts: Sequence[str], entries: int) -> float:
    tokenizer = Tokenizer.from_file(ROOT / "models" / "danmaku-bert-mini" / "vocab.txt")
    cache: OrderedDict[str, None] = OrderedDict()
    hits = lookups = 0
    for start in range(0, len(texts), TEXTS_A_REQUEST):
        keys = set(map(tokenizer.normalize, texts[start : start + TEXTS_A_REQUEST]))  # a list's repeats are one look-up
        hits, lookups = hits + len(keys & cache.keys()), lookups + len(keys)
        for key in keys:
            cache[key] = None
            cache.move_to_end(key)
            if len(cache) > entries:
                cache.popitem(last=False)
    return hits / lookups


def measure_gateway(model: Path, texts: Sequence[str], entries: int) -> tuple[float, float]:
    """Returns texts per second and the cache hit rate."""
    entry_bytes = DIM * 4 + 33 + 94 + ENTRY_OVERHEAD  # the cache's count for an average text
    flags = f"--encoder onnx://{model} --precision int8 --cache-bytes {entries * entry_bytes}".split()
    with serving(["-m", "service", "serve", "--port", "{port}", *flags], cores=CORES) as port:
        connections = [connect(port) for _ in range(CLIENTS)]

        def ask(client: int, part: Sequence[str]) -> int:
            connections[client].request("POST", "/embed", json.dumps({"texts": part, "encoding": "base64"}))
            answer = connections[client].getresponse()
            return len(json.loads(answer.read())["embeddings"]) if answer.status == 200 else 0

        rate = replay(texts, [partial(ask, client) for client in range(CLIENTS)])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as metrics:
            found = re.findall(LOOKUPS, metrics.read().decode(), re.MULTILINE)
    counted = {result: float(value) for result, value in found}
    return rate, counted["hit"] / (counted["hit"] + counted["miss"])


def measure_genuine(python: str, model: Path, texts: Sequence[str]) -> float:
    port, port_out = free_port(), free_port()
    flags = f"-model_dir {model} -ckpt_name bert_model.ckpt -cpu -port {port} -port_out {port_out} -http_port".split()
    command = ["-m", "service.classic", *flags, "{port}"]
    with serving(command, cores=CORES, python=python, ready="/status/server") as http_port:

        def ask(part: Sequence[str]) -> int:
            connection = connect(http_port)  # it closes one after every answer
            body = json.dumps({"id": 1, "texts": part, "is_tokenized": False})
            connection.request("POST", "/encode", body, {"content-type": "application/json"})
            return len(json.loads(connection.getresponse().read())["result"])

        ask(texts[:TEXTS_A_REQUEST])  # the first call allocates
        return replay(texts, [ask] * CLIENTS)


def replay(texts: Sequence[str], clients: Sequence[Ask]) -> float:
    lists = [texts[start : start + TEXTS_A_REQUEST] for start in range(0, len(texts), TEXTS_A_REQUEST)]
    todo = iter(lists)

    def work(ask: Ask) -> int:
        return sum(ask(part) for part in todo)  # shared: the next free client takes the next part

    started = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as threads:
        answered = sum(threads.map(work, clients))
    if answered != len(texts):
        raise RuntimeError(f"{answered} of {len(texts)} texts were answered")
    return answered / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
