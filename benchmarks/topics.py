"""Compares topics of recordings, found line by line, with clustering every window from scratch.

Every 5 s the lines of the last minute are grouped by their topics' ids, and by average linkage of their vectors at a
cosine, which is recomputed for each step. It prints how well the two agree (adjusted Rand index),
and how well each agrees with itself 5 s earlier on the remaining lines.

    .venv/bin/python benchmarks/topics.py danmaku_dataset/349991143/52617815.csv
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from contextlib import aclosing

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from service.chat.topics import WINDOW_S, Topics
from service.commands.recording_flags import add_embedding_flags
from service.commands.timed_vectors import TimedVectors, embed_recordings

STEP_S = 5.0
COSINE = 0.5
FEWEST = 10  # minimum lines of a compared window


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_embedding_flags(parser)
    parsed = parser.parse_args()
    parsed.command = "topics"
    async with aclosing(embed_recordings(parsed)) as recordings:
        async for recording in recordings:
            measure(recording)


def measure(recording: TimedVectors) -> None:
    topics = Topics(recording.judge, recording.vectors.shape[1], recording.fingerprint)
    window: deque[tuple[float, int, int]] = deque()  # time, line, topic
    agreement, kept, kept_clusters = [], [], []
    before: dict[int, tuple[int, int]] = {}
    adding_s, step_at, started = 0.0, STEP_S, time.perf_counter()
    for index, line in enumerate(recording.timed.lines):
        while line.seconds >= step_at:
            while window and window[0][0] <= step_at - WINDOW_S:
                window.popleft()
            if len(window) >= FEWEST:
                rows = [row for _, row, _ in window]
                now = {
                    row: (topic, group)
                    for (_, row, topic), group in zip(window, cluster(recording.vectors[rows]), strict=True)
                }
                agreement.append(adjusted_rand_score(*zip(*now.values(), strict=True)))
                both = [row for row in now if row in before]
                if len(both) >= FEWEST:
                    for which, found in enumerate((kept, kept_clusters)):
                        found.append(adjusted_rand_score(*([at[row][which] for row in both] for at in (before, now))))
                before = now
            step_at += STEP_S
        if np.isnan(recording.vectors[index, 0]):
            continue
        started = time.perf_counter()
        topic, _ = topics.add(line.text, line.seconds, recording.vectors[index])
        adding_s += time.perf_counter() - started
        window.append((line.seconds, index, topic))
    lines = len(recording.timed.lines)
    print(f"{recording.path.name}: {lines:,} lines in {recording.timed.lines[-1].seconds:,.0f} s")
    print(f"adjusted Rand index of topics and clustering {np.mean(agreement):.2f} ({len(agreement)} windows)")
    print(f"… with itself 5 s before: topics {np.mean(kept):.2f}, clustering {np.mean(kept_clusters):.2f}")
    print(f"{1e6 * adding_s / lines:.0f} µs a line", flush=True)


def cluster(vectors: np.ndarray) -> np.ndarray:
    """Returns a number for the cluster of each vector [n]."""
    found = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=1 - COSINE)
    return np.asarray(found.fit_predict(vectors))


if __name__ == "__main__":
    asyncio.run(main())
