"""What an encoder is: the one thing behind the gateway that turns prepared texts into vectors.

Chosen by URL, and imported only when chosen:

    onnx://models/danmaku-bert-mini    ONNX Runtime in this process
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from service.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text, a pair of texts or a list of tokens on its way to the model."""

    text: str  # normalised: of one encoder, equal texts are equal input; see `Inputs` for pairs and tokens
    ids: list[int]  # [CLS] … [SEP], at most max_seq_len of them
    is_truncated: bool  # tokens were cut off
    is_spelled: bool  # at least one of its tokens is in the vocabulary
    segment_b: int | None = None  # where the second text of a pair starts
    has_special_tokens: bool = True

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


class Encoder(Protocol):
    """Opened by `open_encoder`; to be closed by whoever opened it."""

    model: str  # the model's name
    fingerprint: str  # equal fingerprints, comparable vectors
    dim: int
    max_seq_len: int
    concurrency: int  # how many calls of `encode` it can work on at the same time

    def normalize(self, text: str) -> str:
        """The text as the model sees it; "" for a blank one."""

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        """Normalised texts, tokenized."""

    def truncates(self, text: str) -> bool:
        """Whether a normalised text has more tokens than max_seq_len lets through."""

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        """One model call: vectors [len(batch), dim] float32. Raises EncoderFailure."""

    def close(self) -> None: ...


def open_encoder(
    url: str, *, pooling_layer: tuple[int, ...], pooling_strategy: str, max_seq_len: int | None, threads: int
) -> Encoder:
    """The encoder behind a URL. Raises ConfigurationError if there is none of the kind, or it cannot be opened."""
    scheme, _, rest = url.partition("://")
    if scheme == "onnx":
        from service.encoders.onnx import OnnxEncoder
        from service.encoders.options import EncoderOptions

        options = EncoderOptions(pooling_layer, pooling_strategy, max_seq_len=max_seq_len)
        # One thread a call and several calls at once keep all cores busy without threads that wait for one another.
        return OnnxEncoder.open(Path(rest), options, threads=threads, concurrency=threads)
    raise ConfigurationError(f"{url!r} is no encoder: expected onnx://DIRECTORY")
