"""Compares POST /classify with one head to POST /embed on the same gateway, in texts per second.

    python benchmarks/classify.py danmaku.txt --head heads/question

Each round starts a new gateway. It gets lists of 64 new texts, half of them for each route; then lists of 16 cached
texts, for both routes in turn. One client uses one connection. Prints the medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from gateway import serving
from material import read_texts

NEW, CACHED = 64, 16
REPEATS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("danmaku", type=Path, metavar="FILE", help="one danmaku per line")
    parser.add_argument("--head", type=Path, required=True, metavar="DIR")
    parser.add_argument("--texts", type=int, default=6400, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    flags = parser.parse_args()
    texts = read_texts(flags.danmaku, flags.texts)
    lists = [texts[start : start + NEW] for start in range(0, len(texts) - NEW, NEW)]
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(flags.rounds):
        command = ["-m", "service", "serve", "--port", "{port}", "--access-log", "false", "--collections", "none"]
        with (
            serving([*command, "--heads", str(flags.head.resolve())]) as port,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
        ):
            routes = {"/embed": lists[number % 2 :: 2], "/classify": lists[1 - number % 2 :: 2]}
            for route, parts in routes.items():
                found.setdefault(("new", route), []).append(measure(http, route, parts))
            known = [part[:CACHED] for part in lists[: len(lists) // 4]]
            for route in routes:
                measure(http, route, known)
            for _ in range(3):
                for route in routes:
                    some = (known * REPEATS)[:REPEATS]
                    found.setdefault(("cached", route), []).append(measure(http, route, some))
    for kind in ("new", "cached"):
        embed, classify = (statistics.median(found[kind, route]) for route in ("/embed", "/classify"))
        print(f"{kind}: /embed {embed:,.0f} texts/s, /classify {classify:,.0f} texts/s, {classify / embed:.0%}")


def measure(http: httpx.Client, route: str, lists: Sequence[Sequence[str]]) -> float:
    """Returns texts per second."""
    started = time.perf_counter()
    for texts in lists:
        http.post(route, json={"texts": texts}).raise_for_status()
    return sum(map(len, lists)) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
