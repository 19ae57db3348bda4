"""Danmaku with the second at which each was seen: what `align` learns from and `evaluate --retrieval` asks about.

What viewers write within a few seconds of one another answers the same thing on screen, whether or not the words are
the same. So here a line is not only a text but a moment of a video. Texts are kept once, in the model's normal form,
with their tokens; a line is a number. Texts that differ in repeats and marks only are one `kind`: 哈哈哈 and 哈哈！
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from service.recordings import Options
from service.tokenizer import Tokenizer
from training.corpus.files import Source, find_sources, one_line, read, split_of
from training.files import temporary_name
from training.progress import open_progress

FILE = "lines.npz"  # in the workdir of a run
TEXTS_PER_CALL = 20_000  # of the tokenizer
MARKS = re.compile(r"[\W_]+")
REPEATS = re.compile(r"(.{1,4}?)\1+")


@dataclass(frozen=True)
class TimedLines:
    """Lines in the order of documents and, within one, of time. n lines, m distinct texts."""

    texts: list[str]  # [m]
    tokens: np.ndarray  # int32, those of all texts one after the other, without [CLS] and [SEP]
    starts: np.ndarray  # int64 [m + 1], where a text's tokens begin
    text_of: np.ndarray  # int32 [n]
    seconds: np.ndarray  # float32 [n], from the first line of the document on
    document_of: np.ndarray  # int32 [n]
    kinds: np.ndarray  # int32 [m], the same number for texts that differ in repeats and marks only

    @cached_property
    def counts(self) -> np.ndarray:
        """How many lines have each text: [m]."""
        return np.bincount(self.text_of, minlength=len(self.texts))

    def ids(self, text: int) -> list[int]:
        """The tokens of a text, without [CLS] and [SEP]."""
        return self.tokens[self.starts[text] : self.starts[text + 1]].tolist()

    def neighbours(self, window_s: float, most: int) -> tuple[np.ndarray, np.ndarray]:
        """For each line the stretch [first, last) of lines of its document within the window, itself included.

        At most so many on either side: where a thousand speak at once, the nearest.
        """
        numbers = np.arange(len(self.text_of))
        # A document after the other on one axis of time, so far apart that no window reaches into the next.
        axis = self.document_of * (float(self.seconds.max()) + 2 * window_s + 1) + self.seconds
        first = np.searchsorted(axis, axis - window_s, side="left")
        last = np.searchsorted(axis, axis + window_s, side="right")
        return np.maximum(first, numbers - most), np.minimum(last, numbers + most + 1)

    def save(self, path: Path) -> None:
        with temporary_name(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                texts=np.frombuffer("\n".join(self.texts).encode(), np.uint8),
                tokens=self.tokens,
                starts=self.starts,
                text_of=self.text_of,
                seconds=self.seconds,
                document_of=self.document_of,
                kinds=self.kinds,
            )

    @classmethod
    def load(cls, path: Path) -> TimedLines:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls(arrays.pop("texts").tobytes().decode().split("\n"), **arrays)


def kinds_of(texts: list[str]) -> np.ndarray:
    """A number for each text, the same for those of one kind: int32 [m]."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(kind_of(text), len(known)) for text in texts], np.int32)


def kind_of(text: str) -> str:
    """The text without marks and spaces, every run of repeats once; the text itself if nothing is left."""
    bare = MARKS.sub("", text) or text.replace(" ", "")
    return REPEATS.sub(r"\1", bare)


def read_moments(
    paths: list[Path], tokenizer: Tokenizer, *, split: str | None = None, heldout: float = 0.05
) -> TimedLines:
    """The danmaku of recordings; with `split`, of those that `clean` would put there.

    Danmaku that the vocabulary cannot spell are left out. Raises ValueError if nothing is left, or if no file tells
    when its danmaku were seen.
    """
    sources, *_ = find_sources(paths)
    known: dict[str, int] = {}
    text_of: list[int] = []
    seconds: list[float] = []
    document_of: list[int] = []
    for number, (lines, times) in enumerate(_documents(sources, split, heldout)):
        start = min(times)
        for line, time in zip(lines, times, strict=True):
            if text := tokenizer.normalize(one_line(line)):
                text_of.append(known.setdefault(text, len(known)))
                seconds.append(time - start)
                document_of.append(number)
    if not text_of:
        raise ValueError(f"{', '.join(map(str, paths))}: no danmaku" + (f" of the split {split}" if split else ""))
    if not any(seconds):
        raise ValueError(
            f"{', '.join(map(str, paths))}: no file has the times of its danmaku; expected recordings "
            "(training/README.md), not the text that `clean` wrote"
        )
    texts = list(known)
    tokens, starts = tokenized(tokenizer, texts)
    lines_ = TimedLines(
        texts,
        tokens,
        starts,
        np.array(text_of, np.int32),
        np.array(seconds, np.float32),
        np.array(document_of, np.int32),
        kinds_of(texts),
    )
    return _only(lines_, only_spelled(tokens, starts, tokenizer.unk_id))


def _documents(sources: list[Source], split: str | None, heldout: float) -> Iterator[tuple[list[str], list[float]]]:
    with open_progress("read", len(sources), "files") as progress:
        for source in sources:
            for document in read(source, None, Options(), Counter()):
                if split is None or split_of(document.source, heldout) == split:
                    yield document.lines, document.seconds
            progress.update(1)


def tokenized(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    for start in range(0, len(texts), TEXTS_PER_CALL):
        ids = tokenizer.ids(texts[start : start + TEXTS_PER_CALL])
        lengths += map(len, ids)
        parts.append(np.fromiter((token for text in ids for token in text), np.int32))
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def only_spelled(tokens: np.ndarray, starts: np.ndarray, unk_id: int) -> np.ndarray:
    """Which texts have tokens, all of them known: bool [m]."""
    unknown = np.concatenate([[0], np.cumsum(tokens == unk_id)])
    return np.asarray((np.diff(starts) > 0) & (unknown[starts[1:]] == unknown[starts[:-1]]))


def _only(lines: TimedLines, wanted: np.ndarray) -> TimedLines:
    """The lines whose texts are wanted (bool [m])."""
    renumbered = np.cumsum(wanted) - 1
    kept = wanted[lines.text_of]
    lengths = np.diff(lines.starts)
    return TimedLines(
        [text for text, keep in zip(lines.texts, wanted, strict=True) if keep],
        lines.tokens[np.repeat(wanted, lengths)],
        np.concatenate([[0], np.cumsum(lengths[wanted])]),
        renumbered[lines.text_of[kept]].astype(np.int32),
        lines.seconds[kept],
        lines.document_of[kept],
        lines.kinds[wanted],
    )
