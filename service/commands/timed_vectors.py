"""Reads recordings and embeds them in this process, for `danmaku merge` and `danmaku highlights`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from service.chat.sameness import Judge, open_judge
from service.commands.embed.file import BLOCK_LINES, BLOCKS_IN_FLIGHT, open_model
from service.commands.flags import given_settings
from service.commands.recording_flags import recording_options
from service.embedder import find_model_directory
from service.recordings import UNREADABLE, open_recording
from service.recordings.timed import Timed, read_timed
from service.settings import Settings

BLOCK_TEXTS = BLOCK_LINES * BLOCKS_IN_FLIGHT  # the capacity of the queue of `open_model`


@dataclass(frozen=True)
class TimedVectors:
    """A recording with the vectors of its danmaku."""

    path: Path
    timed: Timed
    vectors: np.ndarray  # [lines, dim] of length 1; NaN where there is none
    extra: np.ndarray  # [texts, dim], of additional texts
    judge: Judge
    model: str
    fingerprint: str


async def embed_recordings(parsed: argparse.Namespace, extra: Sequence[str] = ()) -> AsyncGenerator[TimedVectors, None]:
    """Yields each recording with its vectors; all are read before the first is embedded.

    Raises RecordingError for one that is not read, OSError, ConfigurationError.
    """
    read = [(path, read_timed(open_recording(path, recording_options(parsed)))) for path in parsed.recordings]
    for path, timed in read:
        if timed.dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in timed.dropped.most_common())
            print(f"danmaku {parsed.command}: {path}: left out: {reasons}", file=sys.stderr)
    settings = Settings(**given_settings(parsed))
    judge = open_judge(find_model_directory(settings))
    total = sum(len({line.text for line in timed.lines}) for _, timed in read)
    is_quiet = parsed.quiet or not sys.stderr.isatty()
    async with open_model(settings, normalize=True) as embed:
        extra_vectors = (await embed(list(extra))).vectors
        with tqdm(total=total, disable=is_quiet, unit=" texts") as bar:
            for path, timed in read:
                texts = list(dict.fromkeys(line.text for line in timed.lines))
                blocks = []
                for start in range(0, len(texts), BLOCK_TEXTS):
                    blocks.append(await embed(texts[start : start + BLOCK_TEXTS]))
                    bar.update(len(blocks[-1].vectors))
                number = {text: index for index, text in enumerate(texts)}
                rows = [number[line.text] for line in timed.lines]
                vectors = np.concatenate([block.vectors for block in blocks])[rows]
                yield TimedVectors(path, timed, vectors, extra_vectors, judge, blocks[0].model, blocks[0].fingerprint)


def is_whole(timed: Timed) -> bool:
    """Returns whether everything that may have been a danmaku was read."""
    return not any(timed.dropped[reason] for reason in UNREADABLE)
