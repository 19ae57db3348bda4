"""A model as its users see it: what it is called, which vectors are comparable, and what it makes of a text.

Everything but the call itself, so that a gateway can know a model that runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text, a pair of texts or a list of tokens on its way to the model."""

    text: str  # normalised: of one model, equal texts are equal input; see `Inputs` for pairs and tokens
    ids: list[int]  # [CLS] … [SEP], at most max_seq_len of them
    is_truncated: bool  # tokens were cut off
    is_spelled: bool  # at least one of its tokens is in the vocabulary
    segment_b: int | None = None  # where the second text of a pair starts
    has_special_tokens: bool = True
    fingerprint: str = ""  # of the model that it was prepared for

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> tuple[str, str]:
        """Equal for what has equal vectors."""
        return self.fingerprint, self.text


class Reader(Protocol):
    """What a model makes of texts: `Inputs` if the vocabulary is known."""

    def normalize(self, text: str) -> str:
        """The text as the model sees it; "" for a blank one."""

    def of_normalized(self, texts: Sequence[str]) -> list[Prepared]:
        """Normalised texts, tokenized."""


@dataclass(frozen=True, eq=False)
class Model:
    name: str
    fingerprint: str  # equal fingerprints, comparable vectors
    dim: int
    max_seq_len: int
    pooling_layer: tuple[int, ...]
    pooling_strategy: str
    reader: Reader

    def normalize(self, text: str) -> str:
        return self.reader.normalize(text)

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        return self.reader.of_normalized(texts)

    def truncates(self, text: str) -> bool:
        """Whether a normalised text has more tokens than max_seq_len lets through."""
        # A token has at least one character, so hardly any text has to be tokenized to know.
        return len(text) > self.max_seq_len - 2 and self.prepare([text])[0].is_truncated
