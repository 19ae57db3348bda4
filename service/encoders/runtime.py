"""Defines the interface of a graph's runtime, and lets several runtimes take turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Protocol

import numpy as np


class Runtime(Protocol):
    """An onnxruntime.InferenceSession, or an object with the same `run` method."""

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]: ...


class Turns:
    """Runtimes of the same graph. Each runs as many calls at a time as it has entries; further calls wait."""

    def __init__(self, runtimes: Iterable[Runtime]) -> None:
        self._free: SimpleQueue[Runtime] = SimpleQueue()
        for runtime in runtimes:
            self._free.put(runtime)

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        runtime = self._free.get()
        try:
            return runtime.run(names, feed)
        finally:
            self._free.put(runtime)
