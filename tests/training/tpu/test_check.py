"""The step meets the requirements of a TPU, tested without one: static shapes, no float64, and XLA compiles it.

`make tpu-check` runs the TPU's own compiler, which needs an environment of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.model_directory import BertConfig
from training.config import TrainConfig
from training.tpu import check
from training.tpu.check import Verdict, tpu_check
from training.tpu.lower import make_feature_specs, make_step_and_specs

BERT = BertConfig(
    vocab_size=60,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=12,
)
CONFIG = TrainConfig(batch_size=16, num_warmup_steps=0, kernel_dtype="float32")


def nodes(function: Any) -> Iterator[Any]:
    """Yields the operations of the graph and of every function that it calls."""
    graph = function.graph.as_graph_def(add_shapes=True)
    yield from graph.node
    for called in graph.library.function:
        yield from called.node_def


def on_cpu(config: TrainConfig) -> Any:
    step, specs = make_step_and_specs(config, BERT, make_feature_specs(16, 12, 4), replicas=1)
    return tf.function(step, jit_compile=True).get_concrete_function(*specs), specs


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_every_shape_is_static_and_nothing_is_float64(optimizer: str) -> None:
    """The step is that of one of eight replicas with two micro-batches, with all functions that it calls."""
    config = TrainConfig(batch_size=16, micro_batch_size=1, optimizer=optimizer, kernel_dtype="bfloat16")
    step, specs = make_step_and_specs(config, BERT, make_feature_specs(2, 12, 4), replicas=8)
    found = list(nodes(tf.function(step).get_concrete_function(*specs)))
    assert {"CrossReplicaSum", "BatchMatMulV2"} <= {node.op for node in found}
    for node in found:
        types = [node.attr[name].type for name in node.attr] + [t for n in node.attr for t in node.attr[n].list.type]
        assert tf.float64.as_datatype_enum not in types, node.name
        for shape in node.attr["_output_shapes"].list.shape:
            assert not shape.unknown_rank and all(dim.size >= 0 for dim in shape.dim), node.name


def test_xla_compiles_the_step() -> None:
    """It runs on the CPU, with all weights equal, and returns the loss of a uniform guess."""
    function, specs = on_cpu(CONFIG)
    params, moments, features, number, replica = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), specs)
    features["masked_lm_weights"] += 1.0
    features["input_mask"] += 1
    _, _, metrics = function(params, moments, features, number, replica)
    assert float(metrics["loss"]) == pytest.approx(np.log(60) + np.log(2), rel=1e-5)


class Compilers:
    """Stands in for the two processes; `answer` is what the second prints."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer, self.calls = answer, list[tuple[str, ...]]()

    def __call__(self, python: Path, module: str, *arguments: Any) -> str:
        if module.endswith("lower"):
            settings = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
            assert settings["config"]["kernel_dtype"] == "bfloat16" and settings["replicas"] == 8
        self.calls.append((module, *map(str, arguments)))
        return f"a line of libtpu's\n{json.dumps(self.answer)}\n"


def verdict(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> Verdict:
    monkeypatch.setattr(check, "_run", Compilers(answer))
    monkeypatch.setattr(check, "find_interpreter", lambda: Path(sys.executable))
    return tpu_check(
        TrainConfig(batch_size=2048), topology="v3:2x2", vocab_size=300, max_seq_length=64, max_predictions_per_seq=10
    )


def test_a_program_fits_if_its_memory_is_below_that_of_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"cores": 8, "arguments": 2**30, "temporaries": 7 * 2**30, "outputs": 2**30, "code": 1}
    found = verdict(monkeypatch, answer)
    assert found.fits
    assert str(found) == (
        "v3:2x2, 8 cores, 1 × 256 examples of 64 tokens each, bfloat16: compiles\n"
        "memory of a core: arguments 1.00 + temporaries 7.00 = 8.00 GiB of 15.48 GiB: fits"
    )
    assert not verdict(monkeypatch, answer | {"temporaries": 15 * 2**30}).fits


def test_a_refusal_quotes_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first paragraph is enough."""
    found = verdict(monkeypatch, {"cores": 8, "refused": "RESOURCE_EXHAUSTED: out of\nmemory.\n\nTotal …"})
    assert not found.fits
    assert str(found).endswith("bfloat16: refused: RESOURCE_EXHAUSTED: out of memory.")


def test_invalid_arguments_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are an unknown topology, a batch that eight cores cannot share, and a missing environment."""
    sizes: Any = {"vocab_size": 300, "max_seq_length": 64, "max_predictions_per_seq": 10}
    with pytest.raises(ValueError, match="expected one of v3:2x2"):
        tpu_check(CONFIG, topology="v9:1x1", **sizes)
    with pytest.raises(ValueError, match="expected a multiple of .* for 8 replicas"):
        tpu_check(TrainConfig(batch_size=12), topology="v3:2x2", **sizes)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="run make tpu-check"):
        tpu_check(CONFIG, topology="v3:2x2", **sizes)
