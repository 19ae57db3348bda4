"""Writes a model as one ONNX file for ONNX Runtime: the padded tokens of a batch in, a vector for each text out.

It is the graph that the service runs, preceded by a few nodes that pack the tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.encoders.graph import build_graph
from service.encoders.options import EncoderOptions
from service.model_directory import ModelDirectory

INPUTS, OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"


def write_onnx(model: ModelDirectory, path: Path) -> None:
    """Writes a graph with the inputs `input_ids` and `attention_mask` [b, t] int64, padded on the right, and the output
    `sentence_embedding` [b, dim] float32.
    """
    options = EncoderOptions().complete(model, model.name)
    made = build_graph(model.config, model.weights, options)
    graph = made.graph
    for node in graph.node:
        node.input[:] = ["packed_ids" if name == "input_ids" else name for name in node.input]
        node.output[:] = [OUTPUT if name == "embedding" else name for name in node.output]
    packing, constants = _pack()
    body = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*packing, *body])
    graph.initializer.extend(constants)
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in INPUTS)
    dim = options.dim(model.config)
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["b", dim]))
    onnx.save(made, path)


def _pack() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Returns the nodes and constants that make the inputs of `build_graph`, under their names."""
    nodes = [
        ("Reshape", ["attention_mask", "flat"], "present"),  # [b · t]
        ("NonZero", ["present"], "places"),
        ("Reshape", ["places", "flat"], "wide_cells"),  # [n]
        ("Reshape", ["input_ids", "flat"], "flat_ids"),
        ("Gather", ["flat_ids", "wide_cells"], "wide_ids"),
        ("Shape", ["attention_mask"], "sizes"),
        ("Gather", ["sizes", "one"], "width"),
        ("Mod", ["wide_cells", "width"], "wide_positions"),
        ("CumSum", ["present", "zero_axis"], "counts"),
        ("Sub", ["counts", "one"], "indices"),
        ("Max", ["indices", "zero_axis"], "flat_tokens"),
        ("Reshape", ["flat_tokens", "sizes"], "wide_tokens"),  # [b, t]
        ("ReduceSum", ["attention_mask", "one"], "wide_lengths"),  # [b, 1]
        ("Reshape", ["wide_lengths", "flat"], "flat_lengths"),  # [b]
    ]
    narrow = {"packed_ids": "wide_ids", "cells": "wide_cells", "positions": "wide_positions", "tokens": "wide_tokens"}
    narrow["lengths"] = "flat_lengths"
    made = [
        helper.make_node(operator, [_inside(name) for name in names], [_inside(output)])
        for operator, names, output in nodes
    ]
    made += [helper.make_node("Cast", [_inside(wide)], [name], to=TensorProto.INT32) for name, wide in narrow.items()]
    constants = {"flat": [-1], "one": [1], "zero_axis": 0}
    return made, [
        numpy_helper.from_array(np.array(value, np.int64), _inside(name)) for name, value in constants.items()
    ]


def _inside(name: str) -> str:
    """Returns a name that no node of `build_graph` has."""
    return name if name in INPUTS else f"pack/{name}"
