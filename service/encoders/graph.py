"""BERT as an ONNX graph, built from a checkpoint's weights, pooling included.

ONNX Runtime's own BERT operators (domain com.microsoft) are used where it has them: they are the fast path on CPU and
compute what bert-serving-server 1.10 computes (GELU by erf, LayerNorm with epsilon 1e-12, masked scores of −10000).
Only the layers that pooling reads are built.

Shapes: b texts, t tokens of the longest, h hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.model_directory import BertConfig

LAYER_NORM_EPSILON = 1e-12
MASKED_SCORE = -10000.0
OPSET = 18
MICROSOFT = "com.microsoft"

POOLING_STRATEGIES = ("REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN")


@dataclass(frozen=True)
class Pooling:
    """How token vectors become one: bert-as-service's `pooling_layer` and `pooling_strategy`.

    Layers count from the end, −1 being the last; several are concatenated, in the order given.
    """

    layers: tuple[int, ...] = (-2,)
    strategy: str = "REDUCE_MEAN"

    def dim(self, config: BertConfig) -> int:
        """Length of a vector."""
        return config.hidden_size * len(self.layers) * (2 if self.strategy == "REDUCE_MEAN_MAX" else 1)


def build_graph(config: BertConfig, weights: Mapping[str, np.ndarray], pooling: Pooling) -> onnx.ModelProto:
    """The model `input_ids [b, t] int32, lengths [b] int32 → embedding [b, dim] float32`.

    `lengths` counts each text's tokens, [CLS] and [SEP] included; what lies beyond is padding and changes nothing.
    """
    graph = _Graph(weights)
    depth = config.num_hidden_layers
    wanted = [depth + 1 + layer for layer in pooling.layers]  # −1 → depth, −2 → depth − 1, …; 0 is the embedding
    outputs = [_embeddings(graph)]
    for index in range(max(wanted)):
        outputs.append(_layer(graph, config, index, outputs[-1]))
    selected = [outputs[layer] for layer in wanted]
    hidden = selected[0] if len(selected) == 1 else graph.add("Concat", selected, axis=-1)  # [b, t, h * layers]
    graph.add("Identity", [_pool(graph, hidden, pooling.strategy)], output="embedding")
    return graph.model(pooling.dim(config))


def _embeddings(graph: _Graph) -> str:
    # A single text is segment 0 throughout, so its segment's vector is added to every position once and for all.
    positions = (
        graph.weights["bert/embeddings/position_embeddings"]
        + (graph.weights["bert/embeddings/token_type_embeddings"][0])
    )
    words = graph.add("Gather", [graph.weight("bert/embeddings/word_embeddings"), "input_ids"])  # [b, t, h]
    positions = graph.constant("positions", positions)
    used = graph.add("Slice", [positions, graph.ints([0]), "max_length", graph.ints([0])])  # [t, h]
    return _layer_norm(graph, "bert/embeddings", graph.add("Add", [words, used]))


def _layer(graph: _Graph, config: BertConfig, index: int, x: str) -> str:
    layer = f"bert/encoder/layer_{index}"
    attention = f"{layer}/attention"
    kernels = [graph.weights[f"{attention}/self/{name}/kernel"] for name in ("query", "key", "value")]
    biases = [graph.weights[f"{attention}/self/{name}/bias"] for name in ("query", "key", "value")]
    attended = graph.add(
        "Attention",
        [
            x,
            graph.constant(f"{attention}/self/kernel", np.concatenate(kernels, axis=1)),  # [h, 3h]
            graph.constant(f"{attention}/self/bias", np.concatenate(biases)),  # [3h]
            "lengths",
        ],
        domain=MICROSOFT,
        num_heads=config.num_attention_heads,
        mask_filter_value=MASKED_SCORE,
    )  # [b, t, h]
    x = _add_and_norm(graph, f"{attention}/output", attended, x)
    inner = graph.add("MatMul", [x, graph.weight(f"{layer}/intermediate/dense/kernel")])  # [b, t, 4h]
    inner = graph.add("BiasGelu", [inner, graph.weight(f"{layer}/intermediate/dense/bias")], domain=MICROSOFT)
    return _add_and_norm(graph, f"{layer}/output", inner, x)


def _add_and_norm(graph: _Graph, scope: str, x: str, residual: str) -> str:
    projected = graph.add("MatMul", [x, graph.weight(f"{scope}/dense/kernel")])  # [b, t, h]
    return graph.add(
        "SkipLayerNormalization",
        [
            projected,
            residual,
            graph.weight(f"{scope}/LayerNorm/gamma"),
            graph.weight(f"{scope}/LayerNorm/beta"),
            graph.weight(f"{scope}/dense/bias"),
        ],
        domain=MICROSOFT,
        epsilon=LAYER_NORM_EPSILON,
    )


def _layer_norm(graph: _Graph, scope: str, x: str) -> str:
    gamma, beta = graph.weight(f"{scope}/LayerNorm/gamma"), graph.weight(f"{scope}/LayerNorm/beta")
    return graph.add("LayerNormalization", [x, gamma, beta], axis=-1, epsilon=LAYER_NORM_EPSILON)


def _pool(graph: _Graph, hidden: str, strategy: str) -> str:
    """[b, t, h] → [b, h]; as bert-serving-server 1.10 pools, [CLS] and [SEP] being tokens like others."""
    if strategy == "CLS_TOKEN":
        return graph.add("Gather", [hidden, graph.constant("first", np.array(0, np.int64))], axis=1)
    lengths = graph.add("Cast", ["lengths"], to=TensorProto.INT64)
    if strategy == "SEP_TOKEN":
        last = graph.add("Unsqueeze", [graph.add("Sub", [lengths, graph.ints([1])]), graph.ints([1])])  # [b, 1]
        return graph.add("GatherND", [hidden, last], batch_dims=1)
    zero, one = graph.constant("zero", np.array(0, np.int64)), graph.constant("one", np.array(1, np.int64))
    columns = graph.add("Range", [zero, graph.add("Squeeze", ["max_length"]), one])  # [t]
    present = graph.add("Less", [columns, graph.add("Unsqueeze", [lengths, graph.ints([1])])])  # [b, t]
    mask = graph.add("Unsqueeze", [graph.add("Cast", [present], to=TensorProto.FLOAT), graph.ints([2])])  # [b, t, 1]
    pooled = []
    if strategy in ("REDUCE_MEAN", "REDUCE_MEAN_MAX"):
        total = graph.add("ReduceSum", [graph.add("Mul", [hidden, mask]), graph.ints([1])], keepdims=0)
        count = graph.add("ReduceSum", [mask, graph.ints([1])], keepdims=0)  # [b, 1]
        pooled.append(graph.add("Div", [total, count]))
    if strategy in ("REDUCE_MAX", "REDUCE_MEAN_MAX"):
        absent = graph.add("Sub", [graph.constant("ones", np.array(1, np.float32)), mask])
        penalty = graph.add("Mul", [absent, graph.constant("far", np.array(1e30, np.float32))])
        pooled.append(graph.add("ReduceMax", [graph.add("Sub", [hidden, penalty]), graph.ints([1])], keepdims=0))
    return pooled[0] if len(pooled) == 1 else graph.add("Concat", pooled, axis=1)


class _Graph:
    """Nodes and constants as they come; every value is named after its node."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        shape = self.add("Shape", ["input_ids"], start=1, end=2)  # [1]
        self.add("Identity", [shape], output="max_length")

    def add(
        self, operator: str, inputs: Sequence[str], *, output: str = "", domain: str = "", **attributes: object
    ) -> str:
        output = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def ints(self, values: list[int]) -> str:
        return self.constant(f"ints_{values}", np.array(values, np.int64))

    def constant(self, name: str, values: np.ndarray) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def model(self, dim: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            "bert",
            inputs=[
                helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["b", "t"]),
                helper.make_tensor_value_info("lengths", TensorProto.INT32, ["b"]),
            ],
            outputs=[helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", dim])],
            initializer=list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
