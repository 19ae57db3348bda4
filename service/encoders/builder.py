"""Writes ONNX: inputs, nodes and constants as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators


class GraphBuilder:
    """Every value is named after its node. `weights` are a checkpoint's, for whoever builds to draw on."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._made: dict[str, str] = {}

    def input(self, name: str, shape: Sequence[str]) -> str:
        if name not in self._inputs:
            self._inputs[name] = helper.make_tensor_value_info(name, TensorProto.INT32, shape)
        return name

    def once(self, value: str, make: Callable[[], str]) -> str:
        """What `make` gives, made for this value and purpose the first time it is asked for."""
        if value not in self._made:
            self._made[value] = make()
        return self._made[value]

    def add(
        self, operator: str, inputs: Sequence[str], *, output: str = "", domain: str = "", **attributes: object
    ) -> str:
        output = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def unsqueezed(self, value: str, axis: int) -> str:
        return self.add("Unsqueeze", [value, self.ints([axis])])

    def columns(self) -> str:
        """[t]: 0, 1, …"""
        length = self.add("Squeeze", [self.add("Shape", ["tokens"], start=1, end=2)])
        zero, one = self.constant("zero", np.array(0, np.int64)), self.constant("one", np.array(1, np.int64))
        return self.add("Range", [zero, length, one])

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
            inputs=list(self._inputs.values()),
            outputs=[helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [*shape, dim])],
            initializer=list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
