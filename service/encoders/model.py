"""Describes a model: its name, its fingerprint and how it reads texts.

It leaves out the model call, so a gateway can describe a model that runs in a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

from service.tokenizer import CACHED_CHARACTERS, CACHED_TEXTS


@dataclass(frozen=True, slots=True)
class Prepared:
    """The input of the model for one text, pair of texts or list of tokens."""

    text: str  # normalised: equal texts are equal input of the same model; see `Inputs` for pairs and tokens
    ids: list[int]  # [CLS] … [SEP], at most max_seq_len of them
    is_truncated: bool  # tokens were cut off
    is_spelled: bool  # at least one of its tokens is in the vocabulary
    segment_b: int | None = None  # index of the first token of the second text of a pair
    has_special_tokens: bool = True
    fingerprint: str = ""  # fingerprint of the model that it was prepared for

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> tuple[str, str]:
        """Inputs with equal keys have equal vectors."""
        return self.fingerprint, self.text


class Reader(Protocol):
    """Reads texts for a model; `Inputs` if its vocabulary is known."""

    def normalize(self, text: str) -> str:
        """Returns the text as the model sees it; "" for a blank one."""

    def prepare_normalized(self, texts: Sequence[str]) -> list[Prepared]:
        """Tokenizes normalised texts."""


@dataclass(frozen=True, eq=False)
class Model:
    name: str
    fingerprint: str  # vectors of equal fingerprints are comparable
    dim: int
    max_seq_len: int
    pooling_layer: tuple[int, ...]
    pooling_strategy: str
    reader: Reader
    trained_dimensions: tuple[int, ...] = ()  # the lengths that it was trained to be cut to

    def count_tokens(self, text: str) -> int:
        """Returns how many tokens of a normalised text the model reads, special ones included."""
        return self._count_short(text) if len(text) <= CACHED_CHARACTERS else self._count(text)

    def _count(self, text: str) -> int:
        return self.reader.prepare_normalized([text])[0].num_tokens

    @cached_property
    def _count_short(self) -> Callable[[str], int]:
        return lru_cache(CACHED_TEXTS)(self._count)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The lengths that vectors may be cut to; the last is `dim`."""
        return (*(length for length in self.trained_dimensions if length < self.dim), self.dim)

    def truncates(self, text: str) -> bool:
        """Returns whether a normalised text has more tokens than max_seq_len allows."""
        # A token has at least one character, so hardly any text needs to be tokenized for this.
        return len(text) > self.max_seq_len - 2 and self.reader.prepare_normalized([text])[0].is_truncated
