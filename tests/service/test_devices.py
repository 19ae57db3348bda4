"""Tests devices: errors without a GPU, flags for GPUs, the size of calls, and the vectors of a real GPU."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import onnxruntime
import pytest

from service.encoders.cuda import CUDA, find_batch_tokens
from service.encoders.device import Device
from service.encoders.exactness import encode_sample, min_cosine
from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.encoders.runtime import Turns
from service.errors import ConfigurationError, EncoderFailure
from service.worker.flags import add_flags, choose_device, encoder_options, find_faults, ineffective_flags

HAS_CUDA = CUDA in onnxruntime.get_available_providers()
GPU_FLAGS = ("-fp16", "-gpu_memory_fraction", "0.7", "-device_map", "2", "0")


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(["-model_dir", "models", *flags])


@pytest.mark.skipif(HAS_CUDA, reason="needs the package onnxruntime, and not onnxruntime-gpu")
def test_a_gpu_without_its_package_is_refused(tiny_model: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="^invalid device: cuda is not supported by .* onnxruntime .*; expected"
    ):
        OnnxEncoder.open(tiny_model, EncoderOptions(), threads=1, device=Device("cuda"))


def test_an_unknown_device_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigurationError, match="^invalid device: tpu; expected one of cpu, cuda"):
        OnnxEncoder.open(tiny_model, EncoderOptions(), threads=1, device=Device("tpu"))


def test_gpu_flags_of_bert_serving_start_mean_something_with_a_gpu() -> None:
    flags = parse("-device", "cuda", *GPU_FLAGS, "-xla")

    assert choose_device(flags) == Device("cuda", (2, 0), 0.7)
    assert encoder_options(flags).precision == "float16"
    assert ineffective_flags(flags) == ["-xla"]


def test_gpu_flags_have_no_effect_on_a_processor() -> None:
    flags = parse(*GPU_FLAGS)

    assert choose_device(flags).name == "cpu" and encoder_options(flags).precision == "float32"
    assert ineffective_flags(flags) == ["-fp16", "-gpu_memory_fraction", "-device_map"]


def test_invalid_gpu_flags_are_named() -> None:
    faults = find_faults(parse("-device", "cuda", "-cpu", "-gpu_memory_fraction", "1.5", "-device_map", "0", "-1"))

    assert [fault.split(";")[0] for fault in faults] == [
        "invalid -cpu: true with -device cuda",
        "invalid -gpu_memory_fraction: 1.5",
        "invalid -device_map: [0, -1]",
    ]


def test_calls_take_turns_on_several_gpus() -> None:
    class Recording:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, names: object, feed: object) -> list[str]:
            calls.append(self.name)
            return []

    calls: list[str] = []
    turns = Turns([Recording("first"), Recording("second")])
    for _ in range(3):
        turns.run(["embedding"], {})

    assert calls == ["first", "second", "first"]


def test_calls_grow_while_they_make_tokens_cheaper() -> None:
    """Here a call takes a millisecond, and a microsecond for each token."""
    assert find_batch_tokens(lambda tokens: 0.001 + tokens * 1e-6) == 8192
    assert find_batch_tokens(lambda tokens: tokens * 1e-6) == 1024
    assert find_batch_tokens(lambda tokens: 0.001) == 65_536


def test_calls_fit_into_the_memory_of_the_gpu() -> None:
    def seconds(tokens: int) -> float:
        if tokens > 4096:
            raise EncoderFailure("the model could not be run")
        return 0.001

    assert find_batch_tokens(seconds) == 4096


@pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU and the package onnxruntime-gpu")
@pytest.mark.parametrize(("precision", "least"), [("float32", 0.999999), ("float16", 0.9999)])
def test_a_gpu_returns_the_vectors_of_the_processor(tiny_model: Path, precision: str, least: float) -> None:
    options = EncoderOptions(precision=precision)
    with (
        closing(OnnxEncoder.open(tiny_model, EncoderOptions(), threads=1)) as exact,
        closing(OnnxEncoder.open(tiny_model, options, threads=1, device=Device("cuda"))) as encoder,
    ):
        assert min_cosine(encode_sample(encoder), encode_sample(exact)) > least
        assert encoder.batch_tokens
