"""Measures the gateway's processor time per request, from socket to socket, as the kernel counts it.

new        one new text
cached     16 cached texts, vectors in base64; and the same through /v1/embeddings
bot        a line added to a collection and a search in it, as benchmarks/bot.py does; and the same line observed

Requests are sent one after another. The model's time for one text is measured in this process, and `new` is
also printed without it. With --beside, the gateway of another checkout takes turns with this one in every round; it
uses the same Python, so the two differ only in their code.

    git worktree add /tmp/before main
    .venv/bin/python benchmarks/processor.py --beside /tmp/before
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
from gateway import CORES, connect, serving
from material import ROOT, read_texts
from metrics import cpu_s, listening

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import PRECISIONS, EncoderOptions

MODEL = "models/danmaku-bert-mini"
COLLECTION = "/collections/bot"
LISTED = 16  # texts of a cached request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--danmaku", type=Path, help="one danmaku per line; default: pairs of words")
    parser.add_argument("--beside", type=Path, metavar="DIR", help="another checkout")
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--requests", type=int, default=400, help="requests of each kind per round [%(default)s]")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    arguments = parser.parse_args()
    roots = {"this checkout": ROOT} | ({"beside": arguments.beside.resolve()} if arguments.beside else {})
    kinds = 3  # that need new texts
    texts = read_texts(arguments.danmaku, (arguments.rounds + 1) * kinds * arguments.requests + LISTED)
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        gateways = {}
        for name, root in roots.items():
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            flags = f"--encoder onnx://{ROOT / MODEL} --precision {arguments.precision} --access-log false"
            command = f"-m service serve --port {{port}} {flags} --collections sqlite:///{directory}".split()
            port = stack.enter_context(serving(command, cores=CORES, root=root))
            gateways[name] = listening(port), connect(port)
            ask(gateways[name][1], "PUT", COLLECTION)
            ask(gateways[name][1], "POST", "/embed", texts[:LISTED])
        options = EncoderOptions(precision=arguments.precision)
        encoder = stack.enter_context(closing(OnnxEncoder.open(ROOT / MODEL, options, threads=1)))
        for number in range(arguments.rounds + 1):  # the first is a warm-up
            start = LISTED + number * kinds * arguments.requests
            new = texts[start : start + kinds * arguments.requests]
            for name, (process, connection) in gateways.items():
                for kind, spent in measure(process, connection, texts[:LISTED], new):
                    figures[name, kind].append(spent)
            figures["model", "alone"].append(measure_model(encoder, new[: arguments.requests]))
            print(f"round {number or 'to warm up'}", flush=True)
    alone = statistics.median(figures["model", "alone"][1:])
    print(f"\nmilliseconds of processor time a request, medians of {arguments.rounds} rounds (least to most)")
    print(f"the model alone, one text: {alone:.3f}")
    for (name, kind), (_, *values) in figures.items():
        if name != "model":
            middle = statistics.median(values)
            beside = f", {middle - alone:.3f} beside the model" if kind.startswith("new") else ""
            print(f"  {name:14} {kind:40} {middle:.3f} ({min(values):.3f} to {max(values):.3f}){beside}")


def measure(
    process: psutil.Process, connection: http.client.HTTPConnection, known: Sequence[str], new: Sequence[str]
) -> Iterator[tuple[str, float]]:
    count = len(new) // 3
    singles, lines, observed = (new[start : start + count] for start in range(0, 3 * count, count))

    def bot(line: str) -> None:
        ask(connection, "POST", f"{COLLECTION}/danmaku", [line])
        ask(connection, "POST", "/similar", {"query": line, "collection": "bot"})

    yield "new: one text", spend(process, singles, lambda text: ask(connection, "POST", "/embed", [text]))
    body = {"texts": known, "encoding": "base64"}
    repeats = range(4 * count)
    yield "cached: 16 texts", spend(process, repeats, lambda _: ask(connection, "POST", "/embed", body))
    body = {"input": known, "encoding_format": "base64"}
    yield (
        "cached: 16 texts, /v1/embeddings",
        spend(process, repeats, lambda _: ask(connection, "POST", "/v1/embeddings", body)),
    )
    yield "bot: a line added, and searched for", spend(process, lines, bot)
    yield (
        "bot: a line observed",
        spend(process, observed, lambda line: ask(connection, "POST", f"{COLLECTION}/observe", [line])),
    )


def spend(process: psutil.Process, each: Sequence[str] | range, work: Callable[..., object]) -> float:
    """Returns the process's processor time per call of `work`, in milliseconds."""
    before = cpu_s(process)
    for argument in each:
        work(argument)
    return 1000 * (cpu_s(process) - before) / len(each)


def measure_model(encoder: OnnxEncoder, texts: Sequence[str]) -> float:
    rows = encoder.inputs.prepare_texts(texts)
    started = time.process_time()
    for row in rows:
        encoder.encode_now([row])
    return 1000 * (time.process_time() - started) / len(rows)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> None:
    sent = None if body is None else json.dumps(body).encode()
    connection.request(method, path, sent, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")


if __name__ == "__main__":
    main()
