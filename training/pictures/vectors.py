"""Where the vectors of words come from, chosen by how the source is written:

    models/danmaku-bert-mini       a model directory, as the service opens it when nothing is set
    http://127.0.0.1:8000          a running gateway, by POST /embed
    bert://127.0.0.1:5555:5556     any bert-as-service worker, by the genuine BertClient

A word of which a model knows nothing has no vector: a row of NaN. A bert-as-service worker does not tell, and gives
such words the vector of [UNK].
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.wire import parse_address

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Vectors:
    """Of one model, a row per text: [n, dim]."""

    model: str
    values: np.ndarray


def vectors_of(source: str, texts: list[str]) -> Vectors:
    """The texts' vectors. Raises OSError or ValueError for a source that does not give them."""
    if source.startswith(("http://", "https://")):
        return _from_gateway(source, texts)
    if source.startswith("bert://"):
        return _from_worker(source, texts)
    return _from_directory(Path(source), texts)


def _from_directory(directory: Path, texts: list[str]) -> Vectors:
    with closing(OnnxEncoder.open(directory, EncoderOptions(), threads=1)) as encoder:
        prepared = encoder.inputs.prepare_texts(texts)  # cut if too long: it is a picture
        values = encoder.encode_now(prepared)
        values[[not text.is_spelled for text in prepared]] = np.nan
        return Vectors(encoder.model.name, values)


def _from_gateway(url: str, texts: list[str]) -> Vectors:
    url = url.rstrip("/").removesuffix("/embed") + "/embed"
    body = json.dumps({"texts": texts}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} answers {error.code}: {error.read(500).decode(errors='replace')}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url} does not answer ({error.reason}): is the gateway running?") from None
    rows = answer["embeddings"]
    if len(rows) != len(texts):
        raise ValueError(f"{url}: sent {len(texts)} texts, got {len(rows)} vectors back")
    nothing = [np.nan] * answer["dim"]
    return Vectors(answer["model"], np.array([nothing if row is None else row for row in rows], np.float32))


def _from_worker(url: str, texts: list[str]) -> Vectors:
    from bert_serving.client import BertClient

    host, port, port_out = parse_address(url)
    # Without its checks, which only warn of long texts: the constructor would ask the worker before it is told to
    # give up after a while.
    client = BertClient(host, port, port_out, ignore_all_checks=True, timeout=round(TIMEOUT_S * 1000))
    try:
        config = client.server_config
        values = client.encode(texts)
    except TimeoutError:
        raise OSError(f"no answer from {url} within {TIMEOUT_S:g} s: is the worker running, on these ports?") from None
    finally:
        client.close()
    if values.shape[0] != len(texts):
        raise ValueError(f"{url}: sent {len(texts)} texts, got {values.shape[0]} vectors back")
    directory = config.get("tuned_model_dir") or config.get("model_dir") or url
    return Vectors(Path(str(directory)).name, np.asarray(values, np.float32))
