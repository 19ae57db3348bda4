"""The model in this process: ONNX Runtime over a graph built from the checkpoint in a model directory.

Model calls run in threads of their own, one per `concurrency`, so the event loop stays free; ONNX Runtime lets go of
Python's lock while it computes. All calls share one session, hence one copy of the weights and one pool of threads that
help whoever calls: with the callers, `threads` in all.
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
    """See `Encoder`; beyond it, what a worker needs that gets pairs and token lists and shows tokens."""

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
            options.pooling_layer,
            options.strategy,
            self.inputs,
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

        `concurrency` calls run at a time, at most one for each of `threads`. The checkpoint is `ckpt_name`, or the only
        one there is, in `tuned_model_dir`, or in `path`. Raises ConfigurationError.
        """
        prefix = None
        if ckpt_name:
            prefix = named_checkpoint(tuned_model_dir or path, ckpt_name)
        elif tuned_model_dir:
            prefix = find_checkpoint(tuned_model_dir)
        directory = open_model_directory(
            path,
            pooled_encoder_shapes if options.strategy == "CLS_POOLED" else encoder_shapes,
            prefix=prefix,
            config_name=config_name,
            lowercase=not options.cased_tokenization,
        )
        options.check(directory.config, str(path))
        concurrency = min(concurrency, threads)
        session = _session(directory, options, threads - concurrency + 1)  # a caller is one of them
        encoder = cls(directory, options, session, concurrency)
        if options.precision == "int8" and not options.allow_inexact:
            exact = replace(options, precision="float32")
            with closing(cls(directory, exact, _session(directory, exact, threads), 1)) as reference:
                check_exactness(encoder, reference)
            del reference
        del directory  # its weights are in the session
        _give_back_memory()
        return encoder

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        """[len(batch), dim]; with the strategy NONE [len(batch), tokens of the longest, dim], zeros for padding."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.encode_now, batch)

    def encode_now(self, batch: Sequence[Prepared]) -> np.ndarray:
        """`encode` in the caller's thread."""
        try:
            (vectors,) = self._session.run(["embedding"], self._feed(batch))
        except Exception as error:  # ONNX Runtime raises its own family of exceptions
            raise EncoderFailure("the model could not be run") from error
        return np.asarray(vectors, np.float32)

    def _feed(self, batch: Sequence[Prepared]) -> dict[str, np.ndarray]:
        """See `build_graph`."""
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


def _session(directory: ModelDirectory, options: EncoderOptions, threads: int) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    # The graph is arranged by hand, and some of what the optimizer would fuse is slower.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = build_graph(directory.config, directory.weights, options).SerializeToString()
    return onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])


def _give_back_memory() -> None:
    """glibc keeps what building a graph took, some copies of the weights; other C libraries lack the function."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _hide_special_tokens(mask: np.ndarray, prepared: Prepared) -> None:
    """As mask_cls_sep says; but [CLS] [SEP] alone stay: without them there were nothing."""
    length = len(prepared.ids)
    if prepared.has_special_tokens and length > 2:
        mask[0] = mask[length - 1] = 0
        if prepared.segment_b is not None:
            mask[prepared.segment_b - 1] = 0


def _fingerprint(directory: ModelDirectory, options: EncoderOptions) -> str:
    digest = sha256(f"{directory.digest} {options.spelling(directory.config)}".encode())
    if options.strategy == "CLS_POOLED":  # the directory's digest covers the encoder only
        for name in ("kernel", "bias"):
            digest.update(np.ascontiguousarray(directory.weights[f"bert/pooler/dense/{name}"]).data)
    return digest.hexdigest()[:16]
