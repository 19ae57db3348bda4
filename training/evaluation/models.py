"""Encodes texts with a model directory as the service does, or from other layers; whitens and shortens vectors."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.huggingface import Pooling
from service.model_directory import BertConfig
from service.vectors import unit

TEXTS_PER_CALL = 128


def embed(directory: Path, texts: list[str], options: EncoderOptions | None = None) -> np.ndarray:
    """Encodes texts with the service's defaults or the options: rows of length 1, or 0 without a known token."""
    with (
        closing(OnnxEncoder.open(directory, options or EncoderOptions(), threads=1)) as opened,
        ThreadPoolExecutor(os.cpu_count()) as executor,
    ):
        prepared = opened.inputs.prepare_texts(texts)
        order = sorted(range(len(texts)), key=lambda number: len(prepared[number].ids))
        parts = [order[start : start + TEXTS_PER_CALL] for start in range(0, len(order), TEXTS_PER_CALL)]
        calls = executor.map(lambda part: opened.encode_now([prepared[number] for number in part]), parts)
        vectors = np.zeros((len(texts), opened.model.dim), np.float32)
        for part, found in zip(parts, calls, strict=True):
            vectors[part] = found
        vectors[[not text.is_spelled for text in prepared]] = 0.0
        return unit(vectors)


def embed_layers(directory: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """Encodes texts with each layer, by its number from the end, the service's first, and with all side by side.

    Each layer's part has length 1. The embeddings below the first layer are left out.
    """
    config = BertConfig.from_json_file(directory / "bert_config.json")
    layers = list(range(-1, -config.num_hidden_layers - 1, -1))
    vectors = embed(directory, texts, EncoderOptions(pooling_layer=tuple(layers)))
    parts = dict(zip(layers, map(unit, np.split(vectors, len(layers), axis=1)), strict=True))
    first = Pooling().layer[0]
    found = {str(layer): parts[layer] for layer in sorted(layers, key=lambda layer: layer != first)}
    return found | {"all": np.concatenate(list(parts.values()), axis=1)}


def whiten(vectors: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Shifts and turns vectors so that those of the sample spread evenly (arXiv 2103.15316)."""
    centre = sample.mean(0)
    values, axes = np.linalg.eigh(np.cov((sample - centre).T))
    turn = axes / np.sqrt(np.maximum(values, 1e-6))
    return unit(np.where(vectors.any(1, keepdims=True), vectors - centre, 0.0) @ turn)


def shorten(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Keeps the first dimensions of the vectors, as a user with many vectors may do."""
    return unit(vectors[:, :dim])
