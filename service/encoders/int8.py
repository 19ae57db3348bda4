"""Multiplies matrices in 8 bits: a quarter of the memory traffic, and several multiplications per instruction.

Weights are quantised once, each column by its largest value. The other factor is quantised at run time, each row by its
largest value. So a text's vector does not depend on the other texts of the call, unlike with ONNX Runtime's
DynamicQuantizeMatMul, which has one scale for the whole matrix. It is slightly slower than that, and closer to float32.
Everything else, embeddings included, stays float32.

Sums are exact. For signed weights, processors without VNNI would add two products in 16 bits, which overflow, so there
the weights are stored unsigned: the same integers, by slower instructions.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from service.encoders.builder import MICROSOFT, GraphBuilder

LARGEST = 127
ZERO = 128  # unsigned 8 bits stand for −128 … 127: processors multiply unsigned rows by signed columns
PRODUCT = "MatMulIntegerToFloat"


def int8_product(graph: GraphBuilder, x: str, kernel: str) -> str:
    """Multiplies x [n, k] by the weight `kernel` [k, m]; returns [n, m]."""
    weights, scales = _quantize(graph.weights[kernel])
    row_scales = graph.share(f"row scales of {x}", lambda: _row_scales(graph, x))
    zeros = graph.share("row zeros", lambda: _row_zeros(graph))
    rows = graph.share(f"quantised {x}", lambda: graph.add("QuantizeLinear", [x, row_scales, zeros], axis=0))
    zero = graph.constant("zero_point", np.array(ZERO, np.uint8))
    columns = graph.constant(kernel, weights if adds_exactly() else weights.view(np.uint8) ^ ZERO)  # that is, plus ZERO
    unscaled, column_scales = (
        graph.constant("unscaled", np.array(1, np.float32)),
        graph.constant(f"{kernel}/scales", scales),
    )
    zero_of_columns = [] if adds_exactly() else [zero]
    product = graph.add(PRODUCT, [rows, columns, unscaled, column_scales, zero, *zero_of_columns], domain=MICROSOFT)
    return graph.add("Mul", [product, graph.share(f"column of {row_scales}", lambda: graph.unsqueeze(row_scales, 1))])


@cache
def adds_exactly() -> bool:
    """Returns whether this processor multiplies unsigned rows by signed columns without overflow."""
    graph = GraphBuilder({})
    one, zero = graph.constant("one", np.array(1, np.float32)), graph.constant("zero_point", np.array(0, np.uint8))
    rows = graph.constant("rows", np.full((1, 16), 255, np.uint8))
    columns = graph.constant("columns", np.full((16, 16), LARGEST, np.int8))
    graph.add(PRODUCT, [rows, columns, one, one, zero], domain=MICROSOFT, output="embedding")
    model = graph.finish(["row"], 16).SerializeToString()
    (sums,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {})
    return bool(np.all(sums == 16 * 255 * LARGEST))


def _quantize(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns integers [k, m] and the scale of each column [m]."""
    scales = (np.abs(kernel).max(axis=0) / LARGEST).astype(np.float32)
    scales[scales == 0] = 1
    return np.rint(kernel / scales).astype(np.int8), scales


def _row_scales(graph: GraphBuilder, x: str) -> str:
    largest = graph.add("ReduceMax", [graph.add("Abs", [x]), graph.ints([1])], keepdims=0)  # [n]
    return graph.add("Mul", [largest, graph.constant("one_step", np.array(1 / LARGEST, np.float32))])


def _row_zeros(graph: GraphBuilder) -> str:
    """Returns ZERO for each row, [n] uint8."""

    value = helper.make_tensor("value", TensorProto.UINT8, [1], [ZERO])
    return graph.add("ConstantOfShape", [graph.add("Shape", [graph.input("input_ids", ["n"])])], value=value)
