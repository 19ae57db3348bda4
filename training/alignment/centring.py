"""Moves the middle of all vectors to the origin inside the weights, without a change to what the heads compute.

The vectors of a pre-trained BERT share one large component, so that strangers have a cosine of a half and more. A
vector is the mean over tokens of what a LayerNorm puts out, so subtracting the common component from that LayerNorm's
beta subtracts it from every vector; the biases behind it add it again for the layers and heads above. The language
model computes what it did, but for rounding, and the service needs to know nothing of it.
"""

from __future__ import annotations

import numpy as np

from service.model_directory import BertConfig

Weights = dict[str, np.ndarray]


def centre(weights: Weights, config: BertConfig, pooling_layer: int, middle: np.ndarray) -> Weights:
    """The weights of the same language model, whose vectors of `pooling_layer` are all less by `middle` [h]."""
    depth = config.num_hidden_layers + 1 + pooling_layer  # layers up to the vector
    moved = dict(weights)

    def add(name: str, values: np.ndarray) -> None:
        moved[name] = (moved[name] + values).astype(np.float32)

    add(f"bert/encoder/layer_{depth - 1}/output/LayerNorm/beta", -middle)
    if depth == config.num_hidden_layers:
        readers = ["bert/pooler/dense", "cls/predictions/transform/dense"]
    else:
        attention = f"bert/encoder/layer_{depth}/attention"
        readers = [f"{attention}/self/{name}" for name in ("query", "key", "value")]
        add(f"{attention}/output/dense/bias", middle)  # what the residual connection carries past the attention
    for name in readers:
        add(f"{name}/bias", middle @ weights[f"{name}/kernel"])
    return moved
