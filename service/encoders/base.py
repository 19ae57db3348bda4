"""What an encoder is: the one thing behind the gateway that turns prepared texts into vectors.

Chosen by URL, and imported only when chosen:

    onnx://models/danmaku-bert-mini    ONNX Runtime in this process
    bert://HOST:5555:5556,OTHER        workers, `danmaku worker` or bert-serving-server
    bert+dns://NAME:5555:5556          all workers that a name has addresses of
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from service.encoders.model import Model, Prepared
from service.errors import ConfigurationError
from service.metrics import Metrics


@dataclass(frozen=True)
class EncoderSettings:
    """How to open an encoder in this process, as far as its URL does not say. Workers have flags of their own."""

    pooling_layer: tuple[int, ...] = (-2,)
    pooling_strategy: str = "REDUCE_MEAN"
    max_seq_len: int | None = None
    precision: str = "float32"
    threads: int = 1


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


async def open_encoder(url: str, settings: EncoderSettings, metrics: Metrics) -> Encoder:
    """The encoder behind a URL. Raises ConfigurationError if there is none of the kind, or it cannot be opened."""
    scheme, _, rest = url.partition("://")
    if scheme == "onnx":
        from service.encoders.onnx import OnnxEncoder
        from service.encoders.options import EncoderOptions

        options = EncoderOptions(
            settings.pooling_layer,
            settings.pooling_strategy,
            max_seq_len=settings.max_seq_len,
            precision=settings.precision,
        )
        # One thread a call and several calls at once keep all cores busy without threads that wait for one another.
        threads = settings.threads
        encoder = await asyncio.to_thread(OnnxEncoder.open, Path(rest), options, threads=threads, concurrency=threads)
        await encoder.encode(encoder.model.prepare(["warm up"]))  # the first call allocates: no user should wait for it
        return encoder
    if scheme in ("bert", "bert+dns"):
        from service.encoders.remote import RemoteEncoder

        if settings != EncoderSettings(threads=settings.threads):
            raise ConfigurationError(
                "pooling_layer, pooling_strategy, max_seq_len and precision are for the workers: start those with them"
            )
        return await RemoteEncoder.open(url, metrics)
    raise ConfigurationError(f"{url!r} is no encoder: expected onnx://DIRECTORY, bert://HOST or bert+dns://NAME")
