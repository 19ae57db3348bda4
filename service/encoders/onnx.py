"""Runs the model in this process: ONNX Runtime over a graph built from the checkpoint in a model directory, or OpenVINO
over the same graph in bfloat16.

Model calls run in separate threads, one per `concurrency`, so the event loop stays free; ONNX Runtime releases the
GIL while it computes. All calls share one session, with one copy of the weights and one pool of threads that help the
callers; together these are `threads` threads. With several GPUs there is a session on each, and calls take turns.

ONNX Runtime rearranges matrices for this processor. It reads float32 matrices from the mapped checkpoint, so they are
in memory once, besides pages of a file, which the system can reclaim.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime

from service.checkpoint import is_mapped, release_pages
from service.encoders import openvino
from service.encoders.cuda import check_device, find_batch_tokens, open_on_gpus
from service.encoders.device import Device
from service.encoders.exactness import check_exactness, encode_sample
from service.encoders.graph import build_graph
from service.encoders.inputs import Inputs
from service.encoders.model import Model, Prepared
from service.encoders.options import EncoderOptions
from service.encoders.runtime import Runtime
from service.errors import EncoderFailure
from service.model_directory import (
    ModelDirectory,
    encoder_shapes,
    find_checkpoint,
    named_checkpoint,
    open_model_directory,
    pooled_encoder_shapes,
)
from service.tasks import Threads

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


class OnnxEncoder:
    """See `Encoder`. `inputs` and `options` are for workers, which also take pairs and token lists and show tokens."""

    def __init__(
        self,
        directory: ModelDirectory,
        options: EncoderOptions,
        session: Session,
        concurrency: int,
    ) -> None:
        fingerprint, max_seq_len = _fingerprint(directory, options), options.length(directory.config)
        self.concurrency = concurrency
        self.obstacle = None
        self.workers = ()
        self.options = options
        self.inputs = Inputs(directory.tokenizer, options, max_seq_len, fingerprint=fingerprint)
        self.model = Model(
            directory.name,
            fingerprint,
            options.dim(directory.config),
            max_seq_len,
            options.pooling_layer or (),
            options.strategy,
            self.inputs,
            directory.config.matryoshka_dimensions if options.is_own(directory.pooling) else (),
        )
        self.batch_tokens: int | None = None
        self._session = session
        self._threads = Threads(concurrency, "encode")

    @classmethod
    def open(
        cls,
        path: Path,
        options: EncoderOptions,
        *,
        threads: int,
        concurrency: int = 1,
        tuned_model_dir: Path | None = None,
        ckpt_name: str | None = None,
        config_name: str = "bert_config.json",
        device: Device = Device(),  # noqa: B008  # it is frozen
    ) -> OnnxEncoder:
        """Reads the model, checks the options against it and builds the session.

        `concurrency` calls run at a time, at most one per thread. The checkpoint is `ckpt_name`, or the only one, in
        `tuned_model_dir` or else in `path`. Raises ConfigurationError.
        """
        check_device(device, options.precision)
        prefix = None
        if ckpt_name:
            prefix = named_checkpoint(tuned_model_dir or path, ckpt_name)
        elif tuned_model_dir:
            prefix = find_checkpoint(tuned_model_dir)
        directory = open_model_directory(
            path,
            pooled_encoder_shapes if options.pooling_strategy == "CLS_POOLED" else encoder_shapes,
            prefix=prefix,
            config_name=config_name,
            lowercase=not options.cased_tokenization,
        )
        options = options.complete(directory, str(path))
        concurrency = min(concurrency, threads)
        with _no_waste():
            exact = _encode_exactly(directory, options, threads, device) if options.is_checked else None
            session = _open_session(directory, options, threads, device, concurrency)
            encoder = cls(directory, options, session, concurrency)
            if exact is not None:
                check_exactness(encoder, exact)
            del directory  # its weights are in the session
        if device.name == "cuda":
            encoder.batch_tokens = find_batch_tokens(encoder.measure_call)
        return encoder

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        """Returns [len(batch), dim]; [len(batch), longest text, dim] padded with zeros with the strategy NONE."""
        return await self._threads.run(lambda: self.encode_now(batch))

    def encode_now(self, batch: Sequence[Prepared]) -> np.ndarray:
        """Does `encode` in the caller's thread."""
        try:
            (vectors,) = self._session.runtime.run(["embedding"], self._make_feed(batch))
        except Exception as error:  # ONNX Runtime raises its own family of exceptions
            raise EncoderFailure("the model could not be run") from error
        return np.asarray(vectors, np.float32)

    def measure_call(self, tokens: int) -> float:
        """Returns how long a call of about that many tokens takes: the best of several, as the first ones allocate."""
        (text,) = self.inputs.prepare_texts(["弹幕护体弹幕护体"])
        times = []
        for _ in range(5):
            started = time.perf_counter()
            self.encode_now([text] * (tokens // text.num_tokens))
            times.append(time.perf_counter() - started)
        return min(times)

    def _make_feed(self, batch: Sequence[Prepared]) -> dict[str, np.ndarray]:
        """Makes the inputs that `build_graph` describes."""
        rows = [prepared.ids for prepared in batch]
        lengths = np.array([len(row) for row in rows], np.int32)  # [b]
        present = np.arange(lengths.max(), dtype=np.int32) < lengths[:, None]  # [b, t]
        cells = np.flatnonzero(present).astype(np.int32)  # [n]
        tokens = np.zeros(present.shape, np.int32)
        tokens[present] = np.arange(len(cells), dtype=np.int32)
        feed = {
            "input_ids": np.fromiter(chain.from_iterable(rows), np.int32, len(cells)),
            "positions": cells % present.shape[1],
            "cells": cells,
            "tokens": tokens,
            "lengths": lengths,
        }
        if self.options.sentence_pairs:
            starts = [prepared.num_tokens if prepared.segment_b is None else prepared.segment_b for prepared in batch]
            in_b = feed["positions"] >= np.repeat(np.array(starts, np.int32), lengths)  # [n]
            feed["segment_ids"] = in_b.astype(np.int32)
        if self.options.mask_cls_sep:
            feed["mask"] = present.astype(np.int32)
            for row, prepared in enumerate(batch):
                _hide_special_tokens(feed["mask"][row], prepared)
        return {name: feed[name] for name in self._session.inputs}

    def close(self) -> None:
        self._threads.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


def _encode_exactly(directory: ModelDirectory, options: EncoderOptions, threads: int, device: Device) -> np.ndarray:
    """Returns the vectors of the sample in float32, with a session that is freed before another takes memory."""
    exact = replace(options, precision="float32")
    with closing(OnnxEncoder(directory, exact, _open_session(directory, exact, threads, device, 1), 1)) as reference:
        return encode_sample(reference)


@dataclass(frozen=True)
class Session:
    runtime: Runtime
    inputs: Collection[str]
    mapped: Collection[onnxruntime.OrtValue]  # the runtime may read these, but does not keep them


def _open_session(
    directory: ModelDirectory, options: EncoderOptions, threads: int, device: Device, concurrency: int
) -> Session:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads - concurrency + 1  # each caller is a thread too
    settings.inter_op_num_threads = 1
    # A pattern would be kept permanently for every shape of a call, and hardly any two calls have the same shape.
    settings.enable_mem_pattern = False
    # The graph is optimized by hand, and some of the optimizer's fused operators are slower.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    mapped: dict[str, onnxruntime.OrtValue] = {}
    is_usual = device.name == "cpu" and options.precision != "bfloat16"

    def keep(name: str, values: np.ndarray) -> bool:
        # Others are copied, so overwriting the file does not change vectors.
        is_rearranged = is_usual and name.endswith("/kernel") and is_mapped(values)
        if is_rearranged:
            mapped[name] = onnxruntime.OrtValue.ortvalue_from_numpy(values)
        return is_rearranged

    model = build_graph(directory.config, directory.weights, options, keep)
    inputs = [value.name for value in model.graph.input]
    graph = model.SerializeToString()
    del model
    settings.add_external_initializers([*mapped], [*mapped.values()])
    runtime: Runtime
    if options.precision == "bfloat16":
        runtime = openvino.open_graph(graph, threads, concurrency)
    elif device.name == "cuda":
        runtime = open_on_gpus(graph, settings, device, concurrency)
    else:
        runtime = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    for weights in directory.weights.values():
        release_pages(weights)
    return Session(runtime, inputs, mapped.values())


@contextmanager
def _no_waste() -> Iterator[None]:
    """Lets glibc return each large block to the system when it is freed, and finally all free memory.

    Otherwise, blocks freed while a session is made remain between others, up to half the size of the weights.
    """
    try:
        _set_malloc(M_MMAP_THRESHOLD, 2**20)
        yield
    finally:
        # Setting a threshold ends glibc's own adaptation, which would have reached these values by now.
        _set_malloc(M_MMAP_THRESHOLD, 2**25)
        _set_malloc(M_TRIM_THRESHOLD, 2**26)
        _release_memory()


def _set_malloc(parameter: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(parameter, value)


def _release_memory() -> None:
    """Returns freed memory to the system. Only glibc has this function and needs it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _hide_special_tokens(mask: np.ndarray, prepared: Prepared) -> None:
    """Masks [CLS] and [SEP], unless they are the only tokens."""
    length = len(prepared.ids)
    if prepared.has_special_tokens and length > 2:
        mask[0] = mask[length - 1] = 0
        if prepared.segment_b is not None:
            mask[prepared.segment_b - 1] = 0


def _fingerprint(directory: ModelDirectory, options: EncoderOptions) -> str:
    digest = sha256(f"{directory.digest} {options.fingerprint_text(directory.config)}".encode())
    if options.strategy == "CLS_POOLED":  # the directory's digest does not cover the pooler
        for name in ("kernel", "bias"):
            digest.update(np.ascontiguousarray(directory.weights[f"bert/pooler/dense/{name}"]).data)
    return digest.hexdigest()[:16]
