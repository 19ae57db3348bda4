"""Builds BERT as an ONNX graph from a checkpoint's weights, pooling included.

It computes what bert-serving-server 1.10 computes (GELU by erf, LayerNorm with epsilon 1e-12, masked scores of −10000)
unless the model's configuration says otherwise, arranged for a CPU:

* Tokens are packed: the rows of a matrix are the tokens of all texts, one after the other, so padding costs nothing.
  Only attention and pooling see texts as padded rows of equal length.
* ONNX Runtime's SkipLayerNormalization and BiasGelu are not used: on CPUs they are several times slower than an
  addition and the plain operator.
* Only the layers that pooling reads are built, and only the inputs that the options need exist.

In float16, everything but pooling has half of the bits: a GPU reads half as much and multiplies faster. A CPU computes
the same result slowly.

Shapes: n tokens in b texts, the longest of t tokens, h hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from service.encoders.builder import MICROSOFT, GraphBuilder, Keep
from service.encoders.int8 import int8_product
from service.encoders.options import EncoderOptions
from service.model_directory import BertConfig

MASKED_SCORE = -10000.0
POOLER = "bert/pooler/dense"
ACTIVATIONS = {"gelu": ("Gelu", MICROSOFT), "gelu_new": ("FastGelu", MICROSOFT), "relu": ("Relu", "")}


def build_graph(
    config: BertConfig,
    weights: Mapping[str, np.ndarray],
    options: EncoderOptions,
    keep: Keep = lambda *_: False,
) -> onnx.ModelProto:
    """Builds the model with the output `embedding` [b, dim] float32, or [b, t, dim] with the strategy NONE.

    `keep` is that of `GraphBuilder`. The inputs, all int32, are:

    input_ids [n]    tokens of all texts
    positions [n]    position of each token in its text; not with no_position_embeddings
    segment_ids [n]  0 or 1; only with sentence_pairs
    cells [n]        index of each token in the padded matrix: row · t + position
    tokens [b, t]    the inverse: index of the token in a cell; arbitrary for padding
    lengths [b]      lengths of the texts
    mask [b, t]      instead of lengths, with mask_cls_sep: 1 for visible tokens, 0 for others and for padding
    """
    if options.precision == "float16":
        weights = {name: w if name.startswith(POOLER) else w.astype(np.float16) for name, w in weights.items()}
    graph = GraphBuilder(weights, keep)
    layers = options.layers(config)
    outputs = [_embeddings(graph, config, options)]
    for index in range(max(layers)):
        outputs.append(_layer(graph, config, options, index, outputs[-1]))
    selected = [outputs[layer] for layer in layers]
    hidden = selected[0] if len(selected) == 1 else graph.add("Concat", selected, axis=-1)  # [n, h * layers]
    hidden = graph.add("Gather", [hidden, graph.input("tokens", ["b", "t"])])  # [b, t, h * layers]
    if options.precision == "float16":
        hidden = graph.add("Cast", [hidden], to=TensorProto.FLOAT)
    pooled = _cls_pooled(graph, hidden) if options.strategy == "CLS_POOLED" else _pool(graph, hidden, options)
    if options.normalize and options.strategy != "NONE":
        pooled = graph.add("LpNormalization", [pooled], axis=1, p=2)
    graph.add("Identity", [pooled], output="embedding")
    return graph.finish(["b", "t"] if options.strategy == "NONE" else ["b"], options.dim(config))


def _embeddings(graph: GraphBuilder, config: BertConfig, options: EncoderOptions) -> str:
    tables = "bert/embeddings"
    segments = graph.weights[f"{tables}/token_type_embeddings"]
    positions = graph.weights[f"{tables}/position_embeddings"]
    x = graph.add("Gather", [graph.weight(f"{tables}/word_embeddings"), graph.input("input_ids", ["n"])])  # [n, h]
    if options.sentence_pairs:
        segment = graph.add("Gather", [graph.constant("segments", segments), graph.input("segment_ids", ["n"])])
        x = graph.add("Add", [x, segment])
    else:
        # Every token is in segment 0, so its vector is added to the table of positions, or to every token below.
        positions = positions + segments[0]
    if not options.no_position_embeddings:
        position = graph.add("Gather", [graph.constant("positions_table", positions), graph.input("positions", ["n"])])
        x = graph.add("Add", [x, position])
    elif not options.sentence_pairs:
        x = graph.add("Add", [x, graph.constant("segment", segments[0])])
    return _layer_norm(graph, config, tables, x)


def _layer(graph: GraphBuilder, config: BertConfig, options: EncoderOptions, index: int, x: str) -> str:
    layer = f"bert/encoder/layer_{index}"
    dense = {"int8": _int8_dense, "bfloat16": _bfloat16_dense}.get(options.precision, _dense)
    cells, tokens = graph.input("cells", ["n"]), graph.input("tokens", ["b", "t"])
    heads = [dense(graph, f"{layer}/attention/self/{name}", x) for name in ("query", "key", "value")]  # [n, h] each
    attended = graph.add(
        "MultiHeadAttention",
        [*(graph.add("Gather", [head, tokens]) for head in heads), "", _presence(graph, options)],
        domain=MICROSOFT,
        num_heads=config.num_attention_heads,
        mask_filter_value=MASKED_SCORE,
    )  # [b, t, h]
    attended = graph.add("Reshape", [attended, graph.ints([-1, config.hidden_size])])  # [b · t, h]
    attended = graph.add("Gather", [attended, cells])  # [n, h]
    attended = dense(graph, f"{layer}/attention/output/dense", attended)
    x = _layer_norm(graph, config, f"{layer}/attention/output", graph.add("Add", [attended, x]))
    activation, domain = ACTIVATIONS[config.hidden_act]
    inner = graph.add(activation, [dense(graph, f"{layer}/intermediate/dense", x)], domain=domain)  # [n, 4h]
    inner = dense(graph, f"{layer}/output/dense", inner)
    return _layer_norm(graph, config, f"{layer}/output", graph.add("Add", [inner, x]))


def _presence(graph: GraphBuilder, options: EncoderOptions) -> str:
    return graph.input("mask", ["b", "t"]) if options.mask_cls_sep else graph.input("lengths", ["b"])


def _dense(graph: GraphBuilder, scope: str, x: str) -> str:
    return graph.add("Gemm", [x, graph.weight(f"{scope}/kernel"), graph.weight(f"{scope}/bias")])


def _bfloat16_dense(graph: GraphBuilder, scope: str, x: str) -> str:
    """Stores the kernel in bfloat16, in half of the memory; OpenVINO would round it to the same."""
    kernel = f"{scope}/kernel"
    rounded = graph.constant(kernel, graph.weights[kernel].astype(ml_dtypes.bfloat16))
    return graph.add("Gemm", [x, graph.add("Cast", [rounded], to=TensorProto.FLOAT), graph.weight(f"{scope}/bias")])


def _int8_dense(graph: GraphBuilder, scope: str, x: str) -> str:
    return graph.add("Add", [int8_product(graph, x, f"{scope}/kernel"), graph.weight(f"{scope}/bias")])


def _layer_norm(graph: GraphBuilder, config: BertConfig, scope: str, x: str) -> str:
    gamma, beta = graph.weight(f"{scope}/LayerNorm/gamma"), graph.weight(f"{scope}/LayerNorm/beta")
    return graph.add("LayerNormalization", [x, gamma, beta], axis=-1, epsilon=config.layer_norm_eps)


def _cls_pooled(graph: GraphBuilder, hidden: str) -> str:
    return graph.add("Tanh", [_dense(graph, POOLER, _first(graph, hidden))])


def _pool(graph: GraphBuilder, hidden: str, options: EncoderOptions) -> str:
    """Pools [b, t, h] to [b, h], or zeros the masked tokens of [b, t, h]; as bert-serving-server 1.10 does."""
    strategy = options.strategy
    if strategy == "CLS_TOKEN":
        return _first(graph, hidden)
    if options.mask_cls_sep:
        mask = graph.add("Cast", [_presence(graph, options)], to=TensorProto.INT64)
        lengths = graph.add("ReduceSum", [mask, graph.ints([1])], keepdims=0)  # [b]
    else:
        lengths = graph.add("Cast", [_presence(graph, options)], to=TensorProto.INT64)
        mask = graph.add("Less", [graph.columns(), graph.unsqueeze(lengths, 1)])  # [b, t]
    if strategy == "SEP_TOKEN":  # with mask_cls_sep, the genuine server takes the token two before [SEP]
        last = graph.unsqueeze(graph.add("Sub", [lengths, graph.ints([1])]), 1)  # [b, 1]
        return graph.add("GatherND", [hidden, last], batch_dims=1)
    mask = graph.unsqueeze(graph.add("Cast", [mask], to=TensorProto.FLOAT), 2)  # [b, t, 1]
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


def _first(graph: GraphBuilder, hidden: str) -> str:
    return graph.add("Gather", [hidden, graph.constant("zero", np.array(0, np.int64))], axis=1)  # [b, h]
