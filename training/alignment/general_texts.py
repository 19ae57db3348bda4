"""Reads general texts as tokens, for the language model and the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.tokenizer import Tokenizer
from training.alignment.timed_lines import kinds_of, only_spelled, tokenized


@dataclass(frozen=True)
class Texts:
    """The tokens of m texts, in the order of their files."""

    texts: list[str]
    tokens: np.ndarray  # int32, of all texts in sequence, without [CLS] and [SEP]
    starts: np.ndarray  # int64 [m + 1], where a text's tokens begin
    kinds: np.ndarray  # int32 [m], the same number for texts that differ only in repeats and marks
    numbers: np.ndarray  # int64 [m], the index of each among the given texts

    def ids(self, text: int) -> list[int]:
        return self.tokens[self.starts[text] : self.starts[text + 1]].tolist()

    @classmethod
    def of(cls, texts: list[str], tokenizer: Tokenizer) -> Texts:
        """Returns the texts that the vocabulary can spell."""
        normal = [tokenizer.normalize(text) for text in texts]
        tokens, starts = tokenized(tokenizer, normal)
        kept = only_spelled(tokens, starts, tokenizer.unk_id)
        lengths = np.diff(starts)
        numbers = np.flatnonzero(kept)
        known = [normal[number] for number in numbers]
        return cls(
            known,
            tokens[np.repeat(kept, lengths)],
            np.concatenate([[0], np.cumsum(lengths[kept])]),
            kinds_of(known),
            numbers,
        )


def read_general(paths: list[Path]) -> list[str]:
    """Reads text files with one text per line."""
    return [
        text
        for file in general_files(paths)
        for line in file.read_text(encoding="utf-8").splitlines()
        if (text := line.strip())
    ]


def general_files(paths: list[Path]) -> list[Path]:
    """Lists the text files under the paths, in the order of their names."""
    return sorted(file for path in paths for file in (path.glob("*.txt") if path.is_dir() else [path]))
