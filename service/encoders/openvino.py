"""Runs the same graph in bfloat16 with OpenVINO, for processors with bfloat16: nearly float32's vectors, much faster.

OpenVINO prepares kernels for each new shape. To keep shapes few, calls are padded with tokens and texts whose results
are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.encoders.runtime import Runtime, Turns
from service.errors import ConfigurationError

NEEDED = "a processor that multiplies bfloat16 and `pip install 'danmaku-embedding[openvino]'`"


class OpenVinoSession:
    """A `Runtime` for one call at a time."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        rows, width = feed["tokens"].shape
        found = self._request.infer(pad(feed))
        return [np.array(found[name][(slice(rows), slice(width))[: found[name].ndim - 1]]) for name in names]


def open_graph(graph: bytes, threads: int, calls: int) -> Runtime:
    """Opens the graph for this many concurrent calls, on `threads` in all. Raises ConfigurationError."""
    try:
        import openvino
    except ModuleNotFoundError:
        raise ConfigurationError(f"invalid precision: bfloat16 without OpenVINO; expected {NEEDED}") from None
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigurationError(f"invalid precision: bfloat16 on this processor; expected {NEEDED}")
    compiled = core.compile_model(
        core.read_model(graph),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": calls,
            "ENABLE_CPU_PINNING": False,  # other processes may do the same with the same cores
        },
    )
    return Turns(OpenVinoSession(compiled) for _ in range(calls))


def pad(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rounds the numbers of tokens, texts and columns up; the added texts have one token."""
    rows, width = feed["tokens"].shape
    more_rows, more_width = round_up(rows), round_up(width)
    padded = {}
    for name, values in feed.items():
        if name in ("tokens", "mask"):
            shape: tuple[int, ...] = (more_rows, more_width)
        else:
            shape = (more_rows if name == "lengths" else round_up(len(values)),)
        padded[name] = np.zeros(shape, values.dtype)
        padded[name][tuple(map(slice, values.shape))] = values
    padded["cells"] += padded["cells"] // width * (more_width - width)  # the same cells of a wider matrix
    if "lengths" in padded:
        padded["lengths"][rows:] = 1
    else:
        padded["mask"][rows:, 0] = 1
    return padded


def round_up(number: int) -> int:
    """Returns one of at most eight numbers between powers of two, so at most an eighth more."""
    step = 1 << max(0, number.bit_length() - 4)
    return -(-number // step) * step
