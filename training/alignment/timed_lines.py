"""Reads danmaku with their times in seconds, for `align` and `evaluate --retrieval`.

Danmaku that viewers write within a few seconds of one another react to the same thing on screen, even in different
words. So a line here is a text and a moment of a video. Each text is stored once, in the model's normal form,
with its tokens; a line is a number. Texts that differ only in repeats and marks are one `kind`: 哈哈哈 and 哈哈！
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
    """The lines, ordered by document and time: n lines, m distinct texts."""

    texts: list[str]  # [m]
    tokens: np.ndarray  # int32, of all texts in sequence, without [CLS] and [SEP]
    starts: np.ndarray  # int64 [m + 1], where a text's tokens begin
    text_of: np.ndarray  # int32 [n]
    seconds: np.ndarray  # float32 [n], since the first line of the document
    document_of: np.ndarray  # int32 [n]
    kinds: np.ndarray  # int32 [m], the same number for texts that differ only in repeats and marks

    @cached_property
    def counts(self) -> np.ndarray:
        """Returns how many lines have each text: [m]."""
        return np.bincount(self.text_of, minlength=len(self.texts))

    def ids(self, text: int) -> list[int]:
        """Returns the tokens of a text, without [CLS] and [SEP]."""
        return self.tokens[self.starts[text] : self.starts[text + 1]].tolist()

    def neighbours(self, window_s: float, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns for each line the range [first, last) of lines of its document within the window, including itself.

        At most this many lines on either side: if a thousand write at once, the nearest.
        """
        numbers = np.arange(len(self.text_of))
        # Puts all documents on one time axis, so far apart that no window reaches into the next.
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
    """Returns a number for each text, the same for texts of one kind: int32 [m]."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(kind_of(text), len(known)) for text in texts], np.int32)


def kind_of(text: str) -> str:
    """Returns the text without marks, spaces and repeats; the text itself if nothing is left."""
    bare = MARKS.sub("", text) or text.replace(" ", "")
    return REPEATS.sub(r"\1", bare)


def read_moments(
    paths: list[Path], tokenizer: Tokenizer, *, split: str | None = None, heldout: float = 0.05
) -> TimedLines:
    """Reads the danmaku of recordings; with `split`, of those that `clean` would put there.

    Danmaku that the vocabulary cannot spell are left out. Raises ValueError if nothing is left, or if no file has
    the times of its danmaku.
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
    """Returns which texts have tokens, all of them known: bool [m]."""
    unknown = np.concatenate([[0], np.cumsum(tokens == unk_id)])
    return np.asarray((np.diff(starts) > 0) & (unknown[starts[1:]] == unknown[starts[:-1]]))


def _only(lines: TimedLines, wanted: np.ndarray) -> TimedLines:
    """Returns the lines whose texts are `wanted` (bool [m])."""
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
