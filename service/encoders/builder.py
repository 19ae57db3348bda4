"""Builds an ONNX model node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators

Keep = Callable[[str, np.ndarray], bool]


class GraphBuilder:
    """A graph under construction. Methods return the name of a value, which is that of its node, input or constant.

    `weights` are the checkpoint's variables by name. `keep` is offered every constant; the model only names those for
    which it returns True, and has copies of the others.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], keep: Keep = lambda *_: False) -> None:
        self.weights, self._keep = weights, keep
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        # Filled in place: the helpers that assemble a finished graph copy all weights several times.
        self._model = helper.make_model(helper.make_graph([], "bert", [], []), opset_imports=opsets, ir_version=10)
        self._graph = self._model.graph
        self._names: set[str] = set()  # of inputs and constants
        self._shared: dict[str, str] = {}

    def input(self, name: str, shape: Sequence[str]) -> str:
        if name not in self._names:
            self._names.add(name)
            self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT32, shape))
        return name

    def share(self, key: str, make: Callable[[], str]) -> str:
        """Returns the result of `make`, which is called once per key."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def add(
        self, operator: str, inputs: Sequence[str], *, output: str = "", domain: str = "", **attributes: object
    ) -> str:
        output = output or f"{operator}_{len(self._graph.node)}"
        self._graph.node.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def unsqueeze(self, value: str, axis: int) -> str:
        return self.add("Unsqueeze", [value, self.ints([axis])])

    def columns(self) -> str:
        """Returns 0, 1, … as [t] int64."""
        length = self.add("Squeeze", [self.add("Shape", ["tokens"], start=1, end=2)])
        zero, one = self.constant("zero", np.array(0, np.int64)), self.constant("one", np.array(1, np.int64))
        return self.add("Range", [zero, length, one])

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def ints(self, values: list[int]) -> str:
        return self.constant(f"ints_{values}", np.array(values, np.int64))

    def constant(self, name: str, values: np.ndarray) -> str:
        if name not in self._names:
            self._names.add(name)
            values = np.asarray(values, order="C")
            if not self._keep(name, values):
                tensor = numpy_helper.from_array(values, name)
            else:
                kind = helper.np_dtype_to_tensor_dtype(values.dtype)
                tensor = TensorProto(name=name, data_type=kind, dims=values.shape, data_location=TensorProto.EXTERNAL)
                tensor.external_data.add(key="location", value="memory")
            self._graph.initializer.append(tensor)
        return name

    def finish(self, shape: Sequence[str], dim: int) -> onnx.ModelProto:
        """Declares the output `embedding` [*shape, dim] and returns the model."""
        self._graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [*shape, dim]))
        return self._model
