"""The model in this process: ONNX Runtime over a graph built from the checkpoint in a model directory.

Model calls run in threads of their own, one per `concurrency`, so the event loop stays free; ONNX Runtime lets go of
Python's lock while it computes. All calls share one session, hence one copy of the weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime

from service.encoders.base import Prepared
from service.encoders.graph import POOLING_STRATEGIES, Pooling, build_graph
from service.errors import ConfigurationError, EncoderFailure
from service.model_directory import ModelDirectory, open_model_directory


class OnnxEncoder:
    """See `Encoder`."""

    def __init__(
        self,
        directory: ModelDirectory,
        pooling: Pooling,
        max_seq_len: int,
        session: onnxruntime.InferenceSession,
        threads: int,
    ) -> None:
        self.model = directory.name
        self.dim = pooling.dim(directory.config)
        self.max_seq_len = max_seq_len
        self.concurrency = threads
        settings = f"{directory.digest} {pooling.layers} {pooling.strategy} {max_seq_len} float32"
        self.fingerprint = sha256(settings.encode()).hexdigest()[:16]
        self._tokenizer = directory.tokenizer
        self._session = session
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    @classmethod
    def open(
        cls, path: str, *, pooling_layer: tuple[int, ...], pooling_strategy: str, max_seq_len: int | None, threads: int
    ) -> OnnxEncoder:
        """Reads the directory, checks the settings against it and builds the session. Raises ConfigurationError."""
        directory = open_model_directory(Path(path))
        config = directory.config
        max_seq_len = config.max_position_embeddings if max_seq_len is None else max_seq_len
        if not 3 <= max_seq_len <= config.max_position_embeddings:
            raise ConfigurationError(
                f"max_seq_len is {max_seq_len}; {path} takes 3 to {config.max_position_embeddings}"
            )
        if pooling_strategy not in POOLING_STRATEGIES:
            raise ConfigurationError(
                f"pooling_strategy is {pooling_strategy!r}; known are {', '.join(POOLING_STRATEGIES)}"
            )
        if not pooling_layer or not all(-config.num_hidden_layers - 1 <= layer <= -1 for layer in pooling_layer):
            raise ConfigurationError(
                f"pooling_layer is {list(pooling_layer)}; {path} has layers −1 (the last) to "
                f"−{config.num_hidden_layers} and the embeddings at −{config.num_hidden_layers + 1}"
            )
        pooling = Pooling(pooling_layer, pooling_strategy)
        options = onnxruntime.SessionOptions()
        # One thread a call and several calls at once keep all cores busy without threads that wait for one another.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        graph = build_graph(config, directory.weights, pooling).SerializeToString()
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return cls(directory, pooling, max_seq_len, session, threads)

    def normalize(self, text: str) -> str:
        return self._tokenizer.normalize(text)

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        tokenizer, room = self._tokenizer, self.max_seq_len - 2
        return [
            Prepared(
                text,
                [tokenizer.cls_id, *ids[:room], tokenizer.sep_id],
                is_truncated=len(ids) > room,
                is_spelled=any(token != tokenizer.unk_id for token in ids[:room]),
            )
            for text, ids in zip(texts, tokenizer.ids(texts), strict=True)
        ]

    def truncates(self, text: str) -> bool:
        # A token has at least one character, so hardly any text has to be tokenized to know.
        return len(text) > self.max_seq_len - 2 and self.prepare([text])[0].is_truncated

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._encode, batch)

    def _encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        lengths = np.array([len(prepared.ids) for prepared in batch], np.int32)  # [b]
        input_ids = np.full((len(batch), lengths.max()), self._tokenizer.pad_id, np.int32)  # [b, t]
        for row, prepared in enumerate(batch):
            input_ids[row, : len(prepared.ids)] = prepared.ids
        try:
            (vectors,) = self._session.run(["embedding"], {"input_ids": input_ids, "lengths": lengths})
        except Exception as error:  # ONNX Runtime raises its own family of exceptions
            raise EncoderFailure("the model could not be run") from error
        return np.asarray(vectors, np.float32)

    def close(self) -> None:
        self._threads.shutdown(wait=True)
