"""What an encoder is: the one thing behind the gateway that turns prepared texts into vectors.

`open_encoder` chooses by URL, and imports only what was chosen:

    onnx://models/danmaku-bert-mini    ONNX Runtime in this process
    bert://HOST:5555:5556,OTHER        workers, `danmaku worker` or bert-serving-server
    bert+dns://NAME:5555:5556          all workers that a name has addresses of
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from service.encoders.model import Model, Prepared


class Encoder(Protocol):
    """Opened by `open_encoder`; to be closed by whoever opened it."""

    @property
    def model(self) -> Model:
        """What encodes now, which may change in the life of an encoder. Raises EncoderUnavailable if none is known."""

    @property
    def concurrency(self) -> int:
        """How many calls of `encode` it can work on at the same time, now."""

    @property
    def obstacle(self) -> str | None:
        """Why texts sent now would not be encoded, or None."""

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        """One model call: vectors [len(batch), dim] float32 of the one model that all texts were prepared for.

        Raises EncoderFailure; ModelGone if that model is no more.
        """

    @property
    def workers(self) -> Sequence[Mapping[str, object]]:
        """Those that do the work, for operators to look at; none if it is done in this process."""

    async def aclose(self) -> None: ...
