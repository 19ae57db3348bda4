"""The graph in bfloat16, which needs OpenVINO and a processor that multiplies bfloat16."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from service.encoders.exactness import encode_sample, min_cosine
from service.encoders.onnx import OnnxEncoder
from service.encoders.openvino import pad, round_up
from service.encoders.options import POOLING_STRATEGIES, EncoderOptions
from service.errors import ConfigurationError

BUNDLED = Path(__file__).parents[2] / "models" / "danmaku-bert-mini"
TEXTS = ["草", "哈哈哈哈哈哈哈哈", "晚安 晚安 ||| 明天见", ""]


def is_supported() -> bool:
    if not find_spec("openvino"):
        return False
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


needs_openvino = pytest.mark.skipif(not is_supported(), reason="needs openvino and a processor that has bfloat16")


@needs_openvino
@pytest.mark.parametrize(
    "options", [{}, {"mask_cls_sep": True, "sentence_pairs": True}, {"no_position_embeddings": True}], ids=str
)
@pytest.mark.parametrize("strategy", [each for each in POOLING_STRATEGIES if each != "CLS_POOLED"])
def test_vectors_are_close_to_float32_and_do_not_depend_on_other_texts(
    strategy: str, options: dict[str, object]
) -> None:
    exact = EncoderOptions(pooling_strategy=strategy, **options)
    rounded = EncoderOptions(pooling_strategy=strategy, precision="bfloat16", **options)
    with (
        closing(OnnxEncoder.open(BUNDLED, exact, threads=1)) as float32,
        closing(OnnxEncoder.open(BUNDLED, rounded, threads=2, concurrency=2)) as encoder,
    ):
        assert 0.9999 < min_cosine(encode_sample(encoder), encode_sample(float32)) < 0.999999
        rows = encoder.inputs.prepare_texts(TEXTS)
        for row, vector in zip(rows, encoder.encode_now(rows), strict=True):
            (alone,) = encoder.encode_now([row])
            assert np.abs((vector[: len(alone)] if strategy == "NONE" else vector) - alone).max() < 1e-5
        assert encoder.model.fingerprint != float32.model.fingerprint


@pytest.mark.skipif(find_spec("openvino") is not None, reason="needs an environment without openvino")
def test_without_openvino_the_error_says_what_to_install(tiny_model: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^invalid precision: bfloat16 without OpenVINO; .*\[openvino\]"):
        OnnxEncoder.open(tiny_model, EncoderOptions(precision="bfloat16"), threads=1)


def test_padding_adds_an_eighth_at_most_and_keeps_the_texts() -> None:
    assert [round_up(number) for number in (1, 15, 17, 100, 1025)] == [1, 15, 18, 104, 1152]
    feed = {
        "input_ids": np.arange(34, dtype=np.int32),
        "cells": np.flatnonzero(np.arange(19)[None] < np.array([[17], [17]])).astype(np.int32),
        "tokens": np.ones((2, 19), np.int32),
        "lengths": np.array([17, 17], np.int32),
    }
    padded = pad(feed)

    assert {name: values.shape for name, values in padded.items()} == {
        "input_ids": (36,),
        "cells": (36,),
        "tokens": (2, 20),
        "lengths": (2,),
    }
    assert padded["input_ids"][:34].tolist() == feed["input_ids"].tolist()
    assert padded["cells"][:34].tolist() == [*range(17), *range(20, 37)]
