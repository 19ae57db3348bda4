"""Measures merging of recordings: merged lines by rule, equal results of a second and a shuffled run, and lines/s.

.venv/bin/python benchmarks/merge.py danmaku_live_2020/*.csv --threads 1
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from contextlib import aclosing

import numpy as np

from service.chat.merging import Group, Line, Rule, merge
from service.chat.sameness import Judge
from service.commands.recording_flags import add_embedding_flags
from service.commands.timed_vectors import embed_recordings

RULES: tuple[Rule, ...] = ("identical", "spelling", "meaning")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_embedding_flags(parser)
    parsed = parser.parse_args()
    parsed.command = "merge"
    shares: dict[str, list[float]] = {rule: [] for rule in RULES}
    total, embedding_s, merging_s = 0, 0.0, 0.0
    started = time.perf_counter()
    async with aclosing(embed_recordings(parsed)) as recordings:
        async for recording in recordings:
            embedding_s += time.perf_counter() - started
            lines = [Line(line.text, line.seconds, str(line.number)) for line in recording.timed.lines]
            for rule in RULES:
                started = time.perf_counter()
                groups = merge(lines, recording.vectors, recording.judge, rule=rule)
                if rule == "meaning":
                    merging_s += time.perf_counter() - started
                    check(lines, groups, recording.vectors, recording.judge)
                shares[rule].append(1 - len(groups) / len(lines))
            total += len(lines)
            told = ", ".join(f"{rule} {shares[rule][-1]:.1%}" for rule in RULES)
            print(f"{recording.path.name}: {len(lines):,} lines; merged away: {told}", flush=True)
            started = time.perf_counter()
    print(
        f"\n{len(shares['meaning'])} recordings, {total:,} lines; every line in one group, twice and shuffled the same"
    )
    for rule, values in shares.items():
        print(f"{rule}: {np.mean(values):.1%} merged away ({min(values):.1%} to {max(values):.1%})")
    print(
        f"{total / merging_s:,.0f} lines/s merged, {total / (embedding_s + merging_s):,.0f} with reading and embedding"
    )


def check(lines: list[Line], groups: list[Group], vectors: np.ndarray, judge: Judge) -> None:
    """Raises AssertionError if a line is not in one group, or if another run or order has another result."""
    assert sorted(name for group in groups for name in group.ids) == sorted(line.id for line in lines)
    assert merge(lines, vectors, judge) == groups
    order = random.Random(0).sample(range(len(lines)), len(lines))
    assert merge([lines[place] for place in order], vectors[order], judge) == groups


if __name__ == "__main__":
    asyncio.run(main())
