"""Names the devices that can run the model, and the precisions in which they can."""

from __future__ import annotations

from dataclasses import dataclass

DEVICES = ("cpu", "cuda")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True)
class Device:
    name: str = "cpu"
    gpus: tuple[int, ...] = (0,)  # for cuda: their numbers, among those that CUDA_VISIBLE_DEVICES leaves
    memory_fraction: float = 1.0  # for cuda: the share of each GPU's memory to use
