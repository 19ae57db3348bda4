"""Matrix products in 8 bits: a quarter of the memory to read, and several multiplications in one instruction.

Weights are quantised once, each column by its largest value; the rows of the other factor on the way, each by its own.
So a text's vector does not depend on what else is in the call, as it does with ONNX Runtime's DynamicQuantizeMatMul,
which has one scale for the whole matrix; it is a little slower than that, and nearer to float32. All the rest, the
embeddings too, stays float32.

On processors without VNNI the sums may overflow: `exactness` would tell.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from service.encoders.builder import MICROSOFT, GraphBuilder

LARGEST = 127
ZERO = 128  # unsigned 8 bits stand for −128 … 127: processors multiply unsigned rows by signed columns


def int8_product(graph: GraphBuilder, x: str, kernel: str) -> str:
    """x [n, k] · the weight `kernel` [k, m] → [n, m]."""
    weights, scales = _quantized(graph.weights[kernel])
    row_scales = graph.once(f"row scales of {x}", lambda: _row_scales(graph, x))
    zeros = graph.once("row zeros", lambda: _row_zeros(graph))
    rows = graph.once(f"quantised {x}", lambda: graph.add("QuantizeLinear", [x, row_scales, zeros], axis=0))
    product = graph.add(
        "MatMulIntegerToFloat",
        [
            rows,
            graph.constant(kernel, weights),
            graph.constant("unscaled", np.array(1, np.float32)),
            graph.constant(f"{kernel}/scales", scales),
            graph.constant("row_zero", np.array(ZERO, np.uint8)),
        ],
        domain=MICROSOFT,
    )
    return graph.add("Mul", [product, graph.once(f"column of {row_scales}", lambda: graph.unsqueezed(row_scales, 1))])


def _quantized(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers [k, m] and a scale for each column."""
    scales = (np.abs(kernel).max(axis=0) / LARGEST).astype(np.float32)
    scales[scales == 0] = 1
    return np.rint(kernel / scales).astype(np.int8), scales


def _row_scales(graph: GraphBuilder, x: str) -> str:
    largest = graph.add("ReduceMax", [graph.add("Abs", [x]), graph.ints([1])], keepdims=0)  # [n]
    return graph.add("Mul", [largest, graph.constant("one_step", np.array(1 / LARGEST, np.float32))])


def _row_zeros(graph: GraphBuilder) -> str:
    """[n] times ZERO."""
    value = helper.make_tensor("value", TensorProto.UINT8, [1], [ZERO])
    return graph.add("ConstantOfShape", [graph.add("Shape", [graph.input("input_ids", ["n"])])], value=value)
