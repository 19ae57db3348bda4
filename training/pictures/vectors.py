"""Gets the vectors of words from a model. The form of the source says how:

    models/danmaku-bert-mini       a model directory, opened as the service opens it by default
    http://127.0.0.1:8000          a running gateway
    bert://127.0.0.1:5555:5556     a bert-as-service worker, ours or a genuine one

A word that a model cannot spell has no vector: its row is NaN. A bert-as-service worker does not report such words; it
returns the vector of [UNK].
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq.asyncio
from danmaku_client import Client, GatewayError

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.encoders.pooled_worker import resolve
from service.encoders.worker_connection import WorkerConnection, WorkerFailed, WorkerLost
from service.wire import parse_address


@dataclass(frozen=True)
class Vectors:
    """The vectors of one model: `values` [n, dim], one row per text."""

    model: str
    values: np.ndarray


def vectors_of(source: str, texts: list[str], *, timeout_s: float = 20.0) -> Vectors:
    """Returns the vectors of the texts. Raises OSError or ValueError if the source does not provide them."""
    if source.startswith(("http://", "https://")):
        return _from_gateway(source, texts, timeout_s)
    if source.startswith("bert://"):
        return _from_worker(source, texts, timeout_s)
    return _from_directory(Path(source), texts)


def _from_directory(directory: Path, texts: list[str]) -> Vectors:
    with closing(OnnxEncoder.open(directory, EncoderOptions(), threads=1)) as encoder:
        prepared = encoder.inputs.prepare_texts(texts)  # cut if too long, which does not matter in a picture
        values = encoder.encode_now(prepared)
        values[[not text.is_spelled for text in prepared]] = np.nan
        return Vectors(encoder.model.name, values)


def _from_gateway(url: str, texts: list[str], timeout_s: float) -> Vectors:
    try:
        with Client(url.rstrip("/").removesuffix("/embed"), timeout_s=timeout_s) as client:
            embedded = client.embed(texts)
    except GatewayError as error:
        raise OSError(str(error)) from None
    return Vectors(embedded.model, embedded.vectors)


def _from_worker(url: str, texts: list[str], timeout_s: float) -> Vectors:
    host, port, port_out = parse_address(url)
    try:
        config, values = asyncio.run(_ask_worker(host, port, port_out, texts, timeout_s))
    except TimeoutError:
        raise OSError(f"{url} did not answer within {timeout_s:g} s") from None
    except (WorkerLost, WorkerFailed, OSError) as error:
        raise OSError(f"no vectors from {url} ({error}); expected a worker that listens on these ports") from None
    if values.shape[:1] != (len(texts),):
        raise ValueError(f"{url}: sent {len(texts)} texts, got {len(values)} vectors back")
    directory = config.get("tuned_model_dir") or config.get("model_dir") or url
    return Vectors(Path(str(directory)).name, np.asarray(values, np.float32))


async def _ask_worker(
    host: str, port: int, port_out: int, texts: list[str], timeout_s: float
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the worker's description of itself, and the vectors [n, dim]."""
    [address, *_] = await resolve(host)
    with zmq.asyncio.Context() as context:
        async with (
            WorkerConnection(context, address, port, port_out, lambda _: None) as link,
            asyncio.timeout(timeout_s),
        ):
            return link.config, await link.encode(texts)
