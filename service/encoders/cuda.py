"""Runs the model on NVIDIA GPUs, with the package onnxruntime-gpu instead of onnxruntime."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import onnxruntime

from service.encoders.device import DEVICES, Device
from service.encoders.runtime import Runtime, Turns
from service.errors import ConfigurationError, EncoderFailure

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
MEANT = "an NVIDIA GPU, its driver and onnxruntime-gpu, as docs/gpu.md says"
FEWEST_TOKENS, MOST_TOKENS = 1024, 65_536  # possible limits for calls
WORTHWHILE = 1.1  # how much faster twice as large calls must be


def check_device(device: Device, precision: str) -> None:
    """Raises ConfigurationError if the model cannot run there, or not in this precision."""
    if device.name not in DEVICES:
        raise ConfigurationError(f"invalid device: {device.name}; expected one of {', '.join(DEVICES)}")
    if device.name == "cuda" and CUDA not in onnxruntime.get_available_providers():
        raise ConfigurationError(
            f"invalid device: cuda is not supported by the installed onnxruntime {onnxruntime.__version__}; "
            f"expected {MEANT}"
        )
    if device.name == "cuda" and precision in ("int8", "bfloat16"):
        raise ConfigurationError(f"invalid precision: {precision} with the device cuda; expected float32 or float16")


def open_on_gpus(graph: bytes, settings: onnxruntime.SessionOptions, device: Device, calls: int) -> Runtime:
    """Opens a session on each GPU, at most one per concurrent call; calls take turns."""
    onnxruntime.preload_dlls()  # those in NVIDIA's packages
    sessions = [_open_on(gpu, graph, settings, device.memory_fraction) for gpu in device.gpus[:calls]]
    return Turns(islice(cycle(sessions), calls))


def _open_on(
    gpu: int, graph: bytes, settings: onnxruntime.SessionOptions, memory_fraction: float
) -> onnxruntime.InferenceSession:
    # TF32 would round the factors of products to 10 bits, and vectors in float32 would not be those of a CPU.
    choices: dict[str, Any] = {"device_id": gpu, "use_tf32": 0}
    if memory_fraction < 1:
        choices["gpu_mem_limit"] = int(memory_fraction * _memory_bytes(gpu))
    session = onnxruntime.InferenceSession(graph, settings, providers=[(CUDA, choices), CPU])
    if CUDA not in session.get_providers():  # it logs the reason, and would continue without the GPU
        raise ConfigurationError(f"invalid device: cuda: GPU {gpu} cannot be used; expected {MEANT}")
    return session


def _memory_bytes(gpu: int) -> int:
    """Asks the driver how much memory a GPU has."""
    number, size = ctypes.c_int(), ctypes.c_size_t()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if code := (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(number), gpu)
            or driver.cuDeviceTotalMem_v2(ctypes.byref(size), number)
        ):
            raise OSError(f"the driver's error {code}")
    except OSError as error:
        raise ConfigurationError(f"invalid device: cuda: GPU {gpu}: {error}; expected {MEANT}") from None
    return size.value


def find_batch_tokens(seconds: Callable[[int], float]) -> int:
    """Returns how many tokens a call should have: with twice as many, tokens per second would hardly rise.

    `seconds` returns how long a call of about that many tokens takes.
    """
    tokens, rate = FEWEST_TOKENS, FEWEST_TOKENS / seconds(FEWEST_TOKENS)
    while tokens < MOST_TOKENS:
        try:
            next_rate = 2 * tokens / seconds(2 * tokens)
        except EncoderFailure:  # beyond its memory
            break
        if next_rate < WORTHWHILE * rate:
            break
        tokens, rate = 2 * tokens, next_rate
    return tokens
