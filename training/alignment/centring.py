"""Moves the mean of all vectors to the origin inside the weights, without changing what the heads compute.

The vectors of a pre-trained BERT share one large component, so strangers have a cosine of 0.5 or more. A vector is the
mean over tokens of a LayerNorm's output, so subtracting the common component from that LayerNorm's beta subtracts it
from every vector; the biases after it add it back for the layers and heads above. The language model computes the same
as before, except for rounding, and the service needs no change.
"""

from __future__ import annotations

import numpy as np

from service.model_directory import BertConfig

Weights = dict[str, np.ndarray]


def centre(weights: Weights, config: BertConfig, pooling_layer: int, middle: np.ndarray) -> Weights:
    """Returns weights of the same language model; its vectors of `pooling_layer` are smaller by `middle` [h]."""
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
        add(f"{attention}/output/dense/bias", middle)  # the residual connection's input, which bypasses the attention
    for name in readers:
        add(f"{name}/bias", middle @ weights[f"{name}/kernel"])
    return moved
