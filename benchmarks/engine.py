"""Measures the model alone, without server or cache: texts/s and time of one text, by precision, threads, call size.

All alternatives are open at once and take turns, round after round, so that other load on the machine affects them
equally; medians and ranges are printed. They are printed beside the arithmetic limit, measured in the same rounds: how
fast as many threads multiply and add float32 numbers in registers, without memory (needs a C compiler, `cc`); and the
share of it that the model reaches. float32 cannot exceed 1. For each further precision, the minimum and the median
cosine to the vectors of the first precision are also printed. bfloat16 needs OpenVINO.

Without --model, a BERT of Google's base size (12 layers × 768) with random weights and the bundled vocabulary is made
in a temporary directory: speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from arithmetic import ArithmeticLimit
from material import random_base_model, read_texts

from service.encoders.model import Prepared
from service.encoders.onnx import OnnxEncoder
from service.encoders.options import PRECISIONS, EncoderOptions
from service.model_directory import BertConfig

SINGLES = 20  # a round, for the time of one text


@dataclass
class Alternative:
    encoder: OnnxEncoder
    label: str
    max_tokens: int
    rates: list[float] = field(default_factory=list)  # texts/s
    waits_ms: list[float] = field(default_factory=list)


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model directory; default: base size, random weights")
    parser.add_argument("--danmaku", type=Path, help="one danmaku per line; default: pairs of words")
    parser.add_argument("--texts", type=int, default=512, help="distinct texts [512]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["float32", "int8"], choices=PRECISIONS)
    parser.add_argument("--max-tokens", nargs="+", type=int, default=[256, 1024, 4096], help="tokens of one call")
    parser.add_argument(
        "--calls", nargs="+", type=int, default=sorted({1, cores}), help="concurrent calls, on all available cores"
    )
    parser.add_argument("--pooling-layer", nargs="+", type=int, default=[-2])
    arguments = parser.parse_args()
    texts = read_texts(arguments.danmaku, arguments.texts)
    with ExitStack() as stack:
        model = arguments.model or random_base_model(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        alternatives = []
        for precision in arguments.precision:
            options = EncoderOptions(tuple(arguments.pooling_layer), precision=precision, allow_inexact=True)
            for calls in arguments.calls:
                encoder = OnnxEncoder.open(model, options, threads=cores, concurrency=calls)
                stack.enter_context(closing(encoder))
                for max_tokens in arguments.max_tokens:
                    label = f"{precision}, {encoder.concurrency} at a time, {max_tokens} tokens"
                    alternatives.append(Alternative(encoder, label, max_tokens))
        measure(
            alternatives,
            texts,
            arguments.rounds,
            ArithmeticLimit(cores),
            BertConfig.from_json_file(model / "bert_config.json"),
        )


def measure(
    alternatives: Sequence[Alternative],
    texts: Sequence[str],
    rounds: int,
    limit: ArithmeticLimit,
    config: BertConfig,
) -> None:
    limits = []
    rows = alternatives[0].encoder.inputs.prepare_texts(texts)
    tokens = statistics.mean(row.num_tokens for row in rows)
    for number in range(rounds + 1):  # the first is a warm-up
        limits.append(limit.measure())
        for alternative in alternatives:
            alternative.rates.append(len(rows) / measure_seconds(lambda a=alternative: encode_all(a, rows)))
            waits = [measure_seconds(lambda a=alternative, r=row: a.encoder.encode_now([r])) for row in rows[:SINGLES]]
            alternative.waits_ms.append(1000 * statistics.median(waits))
        print(f"round {number or 'to warm up'}", flush=True)
    rate = statistics.median(limits[1:])
    print(f"\n{len(rows)} distinct texts of {tokens:.1f} tokens, medians of {rounds} rounds")
    print(f"arithmetic limit, float32 in registers: {rate / 1e9:.0f} GFLOP/s")
    for alternative in alternatives:
        texts_per_s = statistics.median(alternative.rates[1:])
        share = texts_per_s * tokens * flop_per_token(config, alternative.encoder.options) / rate
        rates, waits = spread(alternative.rates[1:]), spread(alternative.waits_ms[1:])
        print(f"  {alternative.label:36} {rates} texts/s   share {share:.2f}   one text {waits} ms")
    by_precision = {each.encoder.options.precision: each.encoder for each in alternatives}
    first, *others = by_precision
    exact = encode_in_order(by_precision[first], rows)
    for other in others:
        found = cosines(encode_in_order(by_precision[other], rows), exact)
        print(f"cosine of {other} to {first}: least {found.min():.6f}, median {np.median(found):.6f}")


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.2f} ({min(values):,.2f} to {max(values):,.2f})"


def encode_all(alternative: Alternative, rows: Sequence[Prepared]) -> None:
    """Encodes texts of similar length together, as the batcher does, in `concurrency` calls at a time."""
    calls: list[list[Prepared]] = [[]]
    tokens = 0
    for row in sorted(rows, key=lambda row: row.num_tokens):
        if calls[-1] and tokens + row.num_tokens > alternative.max_tokens:
            calls.append([])
            tokens = 0
        calls[-1].append(row)
        tokens += row.num_tokens
    with ThreadPoolExecutor(alternative.encoder.concurrency) as threads:
        list(threads.map(alternative.encoder.encode_now, reversed(calls)))


def encode_in_order(encoder: OnnxEncoder, rows: Sequence[Prepared]) -> np.ndarray:
    return np.concatenate([encoder.encode_now(rows[start : start + 32]) for start in range(0, len(rows), 32)])


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return np.asarray(np.sum(ours * theirs, 1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)))


def flop_per_token(config: BertConfig, options: EncoderOptions) -> int:
    """Counts multiplications and additions of the dense layers; those of attention are negligible."""
    h, i = config.hidden_size, config.intermediate_size
    return max(options.layers(config)) * 2 * (4 * h * h + 2 * h * i)


def measure_seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
