"""BERT as an ONNX graph, built from a checkpoint's weights, pooling included.

ONNX Runtime's own BERT operators (domain com.microsoft) are used where it has them: they are the fast path on CPU and
compute what bert-serving-server 1.10 computes (GELU by erf, LayerNorm with epsilon 1e-12, masked scores of −10000).
Only the layers that pooling reads are built, and only the inputs that the options call for are there.

Shapes: b texts, t tokens of the longest, h hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.encoders.options import EncoderOptions
from service.model_directory import BertConfig

LAYER_NORM_EPSILON = 1e-12
MASKED_SCORE = -10000.0
OPSET = 18
MICROSOFT = "com.microsoft"


def build_graph(config: BertConfig, weights: Mapping[str, np.ndarray], options: EncoderOptions) -> onnx.ModelProto:
    """The model `input_ids [b, t] int32, … → embedding [b, dim] float32`, or [b, t, dim] with the strategy NONE.

    The other inputs: which tokens are there is said by `lengths [b] int32`, [CLS] and [SEP] included, what lies beyond
    being padding that changes nothing; with mask_cls_sep by `mask [b, t] int32`, 1 or 0. With sentence_pairs,
    `segment_b [b] int32` is the position from which on tokens are of segment 1.
    """
    graph = _Graph(weights)
    graph.input("input_ids", ["b", "t"])
    if options.mask_cls_sep:
        graph.input("mask", ["b", "t"])
    else:
        graph.input("lengths", ["b"])
    wanted = options.layers(config)
    outputs = [_embeddings(graph, options)]
    for index in range(max(wanted)):
        outputs.append(_layer(graph, config, options, index, outputs[-1]))
    selected = [outputs[layer] for layer in wanted]
    hidden = selected[0] if len(selected) == 1 else graph.add("Concat", selected, axis=-1)  # [b, t, h * layers]
    pooled = _cls_pooled(graph, hidden) if options.strategy == "CLS_POOLED" else _pool(graph, hidden, options)
    graph.add("Identity", [pooled], output="embedding")
    return graph.model(["b", "t"] if options.strategy == "NONE" else ["b"], options.dim(config))


def _embeddings(graph: _Graph, options: EncoderOptions) -> str:
    x = graph.add("Gather", [graph.weight("bert/embeddings/word_embeddings"), "input_ids"])  # [b, t, h]
    segments = graph.weights["bert/embeddings/token_type_embeddings"]
    positions = graph.weights["bert/embeddings/position_embeddings"]
    if options.sentence_pairs:
        graph.input("segment_b", ["b"])
        starts = graph.add("Cast", ["segment_b"], to=TensorProto.INT64)
        in_b = graph.add("GreaterOrEqual", [graph.columns(), graph.unsqueezed(starts, 1)])  # [b, t]
        segment_ids = graph.add("Cast", [in_b], to=TensorProto.INT64)
        x = graph.add("Add", [x, graph.add("Gather", [graph.constant("segments", segments[:2]), segment_ids])])
    else:
        # All is segment 0, so its vector is added to every position, or to every word, once and for all.
        positions = positions + segments[0]
    if not options.no_position_embeddings:
        zero = graph.ints([0])
        used = graph.add("Slice", [graph.constant("positions", positions), zero, graph.max_length(), zero])  # [t, h]
        x = graph.add("Add", [x, used])
    elif not options.sentence_pairs:
        x = graph.add("Add", [x, graph.constant("segment", segments[0])])
    return _layer_norm(graph, "bert/embeddings", x)


def _layer(graph: _Graph, config: BertConfig, options: EncoderOptions, index: int, x: str) -> str:
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
            "mask" if options.mask_cls_sep else "lengths",
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


def _cls_pooled(graph: _Graph, hidden: str) -> str:
    dense = "bert/pooler/dense"
    pooled = graph.add("Gemm", [_first(graph, hidden), graph.weight(f"{dense}/kernel"), graph.weight(f"{dense}/bias")])
    return graph.add("Tanh", [pooled])


def _pool(graph: _Graph, hidden: str, options: EncoderOptions) -> str:
    """[b, t, h] → [b, h], or [b, t, h] with zeros for what is not to be seen; as bert-serving-server 1.10 pools."""
    strategy = options.strategy
    if strategy == "CLS_TOKEN":
        return _first(graph, hidden)
    if options.mask_cls_sep:
        mask = graph.add("Cast", ["mask"], to=TensorProto.INT64)
        lengths = graph.add("ReduceSum", [mask, graph.ints([1])], keepdims=0)  # [b]
    else:
        lengths = graph.add("Cast", ["lengths"], to=TensorProto.INT64)
        mask = graph.add("Less", [graph.columns(), graph.unsqueezed(lengths, 1)])  # [b, t]
    if strategy == "SEP_TOKEN":  # with mask_cls_sep that is two before [SEP]: so it is there
        last = graph.unsqueezed(graph.add("Sub", [lengths, graph.ints([1])]), 1)  # [b, 1]
        return graph.add("GatherND", [hidden, last], batch_dims=1)
    mask = graph.unsqueezed(graph.add("Cast", [mask], to=TensorProto.FLOAT), 2)  # [b, t, 1]
    if strategy == "NONE":
        return graph.add("Mul", [hidden, mask])
    pooled = []
    if strategy in ("REDUCE_MEAN", "REDUCE_MEAN_MAX"):
        total = graph.add("ReduceSum", [graph.add("Mul", [hidden, mask]), graph.ints([1])], keepdims=0)
        count = graph.add("ReduceSum", [mask, graph.ints([1])], keepdims=0)  # [b, 1], never 0
        pooled.append(graph.add("Div", [total, count]))
    if strategy in ("REDUCE_MAX", "REDUCE_MEAN_MAX"):
        absent = graph.add("Sub", [graph.constant("ones", np.array(1, np.float32)), mask])
        penalty = graph.add("Mul", [absent, graph.constant("far", np.array(1e30, np.float32))])
        pooled.append(graph.add("ReduceMax", [graph.add("Sub", [hidden, penalty]), graph.ints([1])], keepdims=0))
    return pooled[0] if len(pooled) == 1 else graph.add("Concat", pooled, axis=1)


def _first(graph: _Graph, hidden: str) -> str:
    return graph.add("Gather", [hidden, graph.constant("zero", np.array(0, np.int64))], axis=1)  # [b, h]


class _Graph:
    """Inputs, nodes and constants as they come; every value is named after its node."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self._inputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._shared: dict[str, str] = {}

    def input(self, name: str, shape: Sequence[str]) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, shape))

    def add(
        self, operator: str, inputs: Sequence[str], *, output: str = "", domain: str = "", **attributes: object
    ) -> str:
        output = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def unsqueezed(self, value: str, axis: int) -> str:
        return self.add("Unsqueeze", [value, self.ints([axis])])

    def max_length(self) -> str:
        """[1]: t"""
        if "max_length" not in self._shared:
            self._shared["max_length"] = self.add("Shape", ["input_ids"], start=1, end=2)
        return self._shared["max_length"]

    def columns(self) -> str:
        """[t]: 0, 1, …"""
        if "columns" not in self._shared:
            zero, one = self.constant("zero", np.array(0, np.int64)), self.constant("one", np.array(1, np.int64))
            self._shared["columns"] = self.add("Range", [zero, self.add("Squeeze", [self.max_length()]), one])
        return self._shared["columns"]

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def ints(self, values: list[int]) -> str:
        return self.constant(f"ints_{values}", np.array(values, np.int64))

    def constant(self, name: str, values: np.ndarray) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def model(self, shape: Sequence[str], dim: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            "bert",
            inputs=self._inputs,
            outputs=[helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [*shape, dim])],
            initializer=list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
