"""Defines the protocol of encoders, which turn prepared texts into vectors.

`open_encoder` chooses one by URL and imports only that:

    onnx://models/danmaku-bert-mini    ONNX Runtime in this process
    bert://HOST:5555:5556,OTHER        workers, `danmaku worker` or bert-serving-server
    bert+dns://NAME:5555:5556          workers at all addresses of a name
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from service.encoders.model import Model, Prepared


class Encoder(Protocol):
    """An encoder, made by `open_encoder` and closed by its caller."""

    @property
    def model(self) -> Model:
        """The current model, which may change during the life of an encoder. Raises EncoderUnavailable without one."""

    @property
    def concurrency(self) -> int:
        """The number of calls of `encode` that it can work on at the same time, now."""

    @property
    def batch_tokens(self) -> int | None:
        """The number of tokens that suits a call, if that was measured."""

    @property
    def obstacle(self) -> str | None:
        """The reason why texts sent now would not be encoded, or None."""

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        """Encodes texts that were all prepared for one model, in one call; returns [len(batch), dim] float32.

        Raises EncoderFailure, or ModelGone if that model is no longer available.
        """

    @property
    def workers(self) -> Sequence[Mapping[str, object]]:
        """Descriptions of the workers, for operators; empty if this process encodes."""

    async def aclose(self) -> None: ...
