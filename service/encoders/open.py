"""Opens the encoder that a URL names, and imports only that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from service.encoders.base import Encoder
from service.errors import ConfigurationError
from service.metrics import Metrics


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of an encoder in this process, and the key file for workers, which have their own flags."""

    pooling_layer: tuple[int, ...] | None = None
    pooling_strategy: str | None = None
    max_seq_len: int | None = None
    precision: str = "float32"
    device: str = "cpu"
    threads: int = 1
    worker_key_file: Path | None = None


async def open_encoder(url: str, settings: EncoderSettings, metrics: Metrics) -> Encoder:
    """Opens the encoder that a URL names. Raises ConfigurationError."""
    scheme, _, rest = url.partition("://")
    if scheme == "onnx":
        if settings.worker_key_file:
            raise ConfigurationError(
                f"invalid worker_key_file for encoder {url!r}: expected an encoder bert:// or bert+dns://, which has "
                "connections to encrypt"
            )
        from service.encoders.device import Device
        from service.encoders.onnx import OnnxEncoder
        from service.encoders.options import EncoderOptions

        options = EncoderOptions(
            settings.pooling_layer,
            settings.pooling_strategy,
            max_seq_len=settings.max_seq_len,
            precision=settings.precision,
        )
        # Single-threaded calls, several at a time, keep all cores busy without threads that wait for one another.
        # OpenVINO is as fast with one call on all threads, and a single text can then use them all. For a GPU, one call
        # is # prepared while another runs.
        calls = 2 if settings.device == "cuda" else 1 if settings.precision == "bfloat16" else settings.threads
        encoder = await asyncio.to_thread(
            OnnxEncoder.open,
            Path(rest),
            options,
            threads=max(calls, settings.threads),
            concurrency=calls,
            device=Device(settings.device),
        )
        # The first call is slow, because it allocates.
        await encoder.encode(encoder.model.reader.prepare_normalized(["warm up"]))
        return encoder
    if scheme in ("bert", "bert+dns"):
        from service.encoders.remote import RemoteEncoder

        if settings != EncoderSettings(threads=settings.threads, worker_key_file=settings.worker_key_file):
            raise ConfigurationError(
                "invalid settings: pooling_layer, pooling_strategy, max_seq_len, precision and device are set by the "
                "workers; pass them to `danmaku worker`"
            )
        return await RemoteEncoder.open(url, metrics, key_file=settings.worker_key_file)
    raise ConfigurationError(f"invalid encoder: {url!r}; expected onnx://DIRECTORY, bert://HOST or bert+dns://NAME")
