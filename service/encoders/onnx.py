"""Runs the model in this process: ONNX Runtime over a graph built from the checkpoint in a model directory.

Model calls run in threads of their own, one per `concurrency`, so the event loop stays free; ONNX Runtime releases the
GIL while it computes. All calls share one session, with one copy of the weights and one pool of threads that help the
callers; with these there are `threads` in all.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime

from service.encoders.exactness import check_exactness
from service.encoders.graph import build_graph
from service.encoders.inputs import Inputs
from service.encoders.model import Model, Prepared
from service.encoders.options import EncoderOptions
from service.errors import EncoderFailure
from service.model_directory import (
    ModelDirectory,
    encoder_shapes,
    find_checkpoint,
    named_checkpoint,
    open_model_directory,
    pooled_encoder_shapes,
)


class OnnxEncoder:
    """See `Encoder`. `inputs` and `options` are for workers, which also take pairs and token lists and show tokens."""

    def __init__(
        self,
        directory: ModelDirectory,
        options: EncoderOptions,
        session: onnxruntime.InferenceSession,
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
        self._session = session
        self._inputs = [value.name for value in session.get_inputs()]
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="encode")

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
    ) -> OnnxEncoder:
        """Reads the model, checks the options against it and builds the session.

        `concurrency` calls run at a time, at most one per thread. The checkpoint is `ckpt_name`, or the only one, in
        `tuned_model_dir` or else in `path`. Raises ConfigurationError.
        """
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
        session = _open_session(directory, options, threads - concurrency + 1)  # each caller is a thread too
        encoder = cls(directory, options, session, concurrency)
        if options.precision == "int8" and not options.allow_inexact:
            exact = replace(options, precision="float32")
            with closing(cls(directory, exact, _open_session(directory, exact, threads), 1)) as reference:
                check_exactness(encoder, reference)
            del reference
        del directory  # its weights are in the session
        _release_memory()
        return encoder

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        """Returns [len(batch), dim]; [len(batch), longest text, dim] padded with zeros with the strategy NONE."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.encode_now, batch)

    def encode_now(self, batch: Sequence[Prepared]) -> np.ndarray:
        """Does `encode` in the caller's thread."""
        try:
            (vectors,) = self._session.run(["embedding"], self._make_feed(batch))
        except Exception as error:  # ONNX Runtime raises its own family of exceptions
            raise EncoderFailure("the model could not be run") from error
        return np.asarray(vectors, np.float32)

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
        return {name: feed[name] for name in self._inputs}

    def close(self) -> None:
        self._threads.shutdown(wait=True)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


def _open_session(directory: ModelDirectory, options: EncoderOptions, threads: int) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    # The graph is optimized by hand, and some of the optimizer's fused operators are slower.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = build_graph(directory.config, directory.weights, options).SerializeToString()
    return onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])


def _release_memory() -> None:
    """Returns freed memory, a few copies of the weights, to the system. Only glibc has this function and needs it."""
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
