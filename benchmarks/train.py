"""Measures the speed of training steps on this machine: tokens/s, and the share of its matrix rate that they use.

Counts only the multiplications and additions of matrix products (forward once, backward twice), over the time of a
whole step, optimizer included. The matrix rate is that of numpy's float32 product of 4096 × 1024 × 4096, measured
alternately with the steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from service.model_directory import BertConfig
from training.bert import model
from training.bert.optimizer import Moments
from training.bert.step import make_step
from training.config import TrainConfig, read_config
from training.examples.settings import ExampleSettings

ROOT = Path(__file__).parents[1]
DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "config", nargs="?", type=Path, default=ROOT / "training" / "configs" / "danmaku-bert-mini.toml"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `danmaku-train train`")
    parser.add_argument("--max-seq-length", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    config = read_config(arguments.config, arguments.set)
    bert = BertConfig(**{**config.model, "vocab_size": arguments.vocab_size})
    settings = ExampleSettings(max_seq_length=arguments.max_seq_length)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # as in training
    batch = random_batch(config.batch_size, settings, bert)
    steps = {kernel_dtype: compile_step(replace(config, kernel_dtype=kernel_dtype), bert) for kernel_dtype in DTYPES}
    left, right = np.ones((4096, 1024), np.float32), np.ones((1024, 4096), np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in (*DTYPES, "product")}
    for _ in range(arguments.rounds):  # alternately, so that other load affects all equally
        for kernel_dtype, step in steps.items():
            seconds[kernel_dtype].append(median_seconds(partial(run, step, batch), 5))
        seconds["product"].append(median_seconds(lambda: float((left @ right)[0, 0]), 5))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rate = 2 * 4096 * 1024 * 4096 / median["product"]
    print(f"{arguments.config.stem}, {os.cpu_count()} cores; numpy's float32 product: {rate / 1e9:.0f} GFLOP/s")
    for kernel_dtype in DTYPES:
        tokens = config.batch_size * settings.max_seq_length / median[kernel_dtype]
        used = matrix_flops(bert, settings) * config.batch_size / median[kernel_dtype]
        print(
            f"  {kernel_dtype} kernels: {tokens:,.0f} tokens/s, {1000 * median[kernel_dtype]:.0f} ms a step of "
            f"{config.batch_size} examples, {used / 1e9:.0f} GFLOP/s in matrix products: "
            f"{used / rate:.0%} of the float32 rate"
        )
    print(f"  bfloat16 is {median['float32'] / median['bfloat16']:.2f} times as quick as float32")


def run(step: Callable[..., dict[str, tf.Tensor]], batch: dict[str, tf.Tensor]) -> float:
    return float(step(batch, tf.constant(0))["loss"])  # waits for the result


def compile_step(config: TrainConfig, bert: BertConfig) -> Callable[..., dict[str, tf.Tensor]]:
    """Compiles a step as `danmaku-train train` runs it, over variables that it updates."""
    variables = {name: tf.Variable(value) for name, value in model.initial_values(bert, 0).items()}
    m, v = ({name: tf.Variable(tf.zeros_like(value)) for name, value in variables.items()} for _ in range(2))
    state, pure = (variables, Moments(m, v)), make_step(config, bert)

    @tf.function(autograph=False)
    def step(features: dict[str, tf.Tensor], number: tf.Tensor) -> dict[str, tf.Tensor]:
        params, moments, metrics = pure(*tf.nest.map_structure(tf.convert_to_tensor, state), features, number)
        tf.nest.map_structure(lambda variable, value: variable.assign(value), state, (params, moments))
        return metrics

    return step


def matrix_flops(bert: BertConfig, settings: ExampleSettings) -> float:
    """Counts the operations of one example, forward and backward."""
    h, i, t = bert.hidden_size, bert.intermediate_size, settings.max_seq_length
    layer = t * (4 * h * h + 2 * h * i) + 2 * t * t * h
    heads = settings.max_predictions_per_seq * (h * h + h * bert.vocab_size) + h * h
    return 6 * (bert.num_hidden_layers * layer + heads)


def random_batch(size: int, settings: ExampleSettings, bert: BertConfig) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    t, p = settings.max_seq_length, settings.max_predictions_per_seq
    batch = {
        "input_ids": rng.integers(0, bert.vocab_size, (size, t)),
        "input_mask": np.ones((size, t)),
        "segment_ids": np.zeros((size, t)),
        "masked_lm_positions": rng.integers(0, t, (size, p)),
        "masked_lm_ids": rng.integers(0, bert.vocab_size, (size, p)),
        "next_sentence_labels": rng.integers(0, 2, (size, 1)),
    }
    features = {name: tf.constant(values, tf.int32) for name, values in batch.items()}
    return features | {"masked_lm_weights": tf.ones((size, p))}


def median_seconds(work: Callable[[], object], times: int) -> float:
    work()  # compiles, warms up
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
