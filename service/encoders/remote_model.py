"""Learns the model of a worker from the worker's answers.

Our worker sends its fingerprint and its vocabulary, so a gateway reads texts exactly as the worker does. A genuine
bert-serving-server sends neither. Its fingerprint is a hash of the paths and options that it shows, so workers of one
model must use the same paths, and new weights need a new path. Normalising needs no vocabulary, but the length of a
text, and therefore `truncated`, is approximate, and a text without any token of the vocabulary is not recognised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import PurePath
from typing import Any

import orjson

from service import wire
from service.encoders.inputs import Inputs
from service.encoders.model import Model, Prepared, Reader
from service.encoders.options import EncoderOptions
from service.encoders.worker_connection import WorkerConnection
from service.tokenizer import SPECIAL_TOKENS, Tokenizer

# The options shown by a genuine server that change vectors.
FINGERPRINT_OPTIONS = (
    *("model_dir", "tuned_model_dir", "ckpt_name", "config_name", "do_lower_case", "max_seq_len", "mask_cls_sep"),
    *("pooling_layer", "pooling_strategy", "no_position_embeddings", "fp16"),
)
MAX_SEQ_LEN = 512  # BERT's, for a genuine server that has no limit
CHARACTERS_PER_TOKEN = 3  # of a word in letters or digits, approximately


class UnusableWorker(Exception):
    """The worker cannot serve a gateway."""


def read_fingerprint(config: Mapping[str, Any]) -> str:
    """Raises UnusableWorker."""
    if "server_version" not in config:
        raise UnusableWorker("invalid answer to SHOW_CONFIG; expected a worker's configuration")
    if config.get("pooling_strategy") == wire.STRATEGIES.index("NONE"):
        raise UnusableWorker("invalid pooling_strategy: NONE; expected one with a single vector per text")
    if _is_ours(config):
        return str(config.get("fingerprint"))
    options = {name: config.get(name) for name in FINGERPRINT_OPTIONS}
    return sha256(orjson.dumps(options)).hexdigest()[:16]


async def learn_model(connection: WorkerConnection) -> Model:
    """Raises UnusableWorker, WorkerLost or WorkerFailed."""
    config, fingerprint = connection.config, read_fingerprint(connection.config)
    reader: Reader
    try:
        lowercase = bool(config["do_lower_case"])
        if _is_ours(config):
            answer = await connection.run_command(wire.SHOW_VOCAB)
            name, dim, max_seq_len = str(config["model"]), int(config["dim"]), int(answer["max_seq_len"])
            rules = {"lowercase": lowercase, **answer.get("rules", {})}  # of an older worker: the usual ones
            tokenizer = await asyncio.to_thread(Tokenizer, answer["vocab"], **rules)
            reader = Inputs(tokenizer, EncoderOptions(), max_seq_len, fingerprint=fingerprint)
        else:
            name = PurePath(config.get("tuned_model_dir") or config["model_dir"]).name
            _, dim = (await connection.encode(["a"])).shape
            max_seq_len = config["max_seq_len"] or MAX_SEQ_LEN
            reader = ApproximateInputs(max_seq_len, lowercase=lowercase, fingerprint=fingerprint)
        strategy = wire.STRATEGIES[config["pooling_strategy"]]
        dimensions = tuple(map(int, config.get("dimensions", ())))
        return Model(name, fingerprint, dim, max_seq_len, tuple(config["pooling_layer"]), strategy, reader, dimensions)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UnusableWorker(f"invalid description of its model: {error!r}") from None


class ApproximateInputs:
    """A `Reader` without a vocabulary: the ids are zeros, approximately as many as the text has tokens."""

    def __init__(self, max_seq_len: int, *, lowercase: bool, fingerprint: str) -> None:
        self._max_seq_len, self._fingerprint = max_seq_len, fingerprint
        # With nothing in its vocabulary, a token is a word, a Chinese character or a punctuation mark.
        self._tokenizer = Tokenizer(SPECIAL_TOKENS, lowercase=lowercase)

    def normalize(self, text: str) -> str:
        return self._tokenizer.normalize(text)

    def prepare_normalized(self, texts: Sequence[str]) -> list[Prepared]:
        return [
            self._row(text, sum(-(-(end - start) // CHARACTERS_PER_TOKEN) for start, end in places))
            for text, (_, places) in zip(texts, self._tokenizer.ids_and_places(texts), strict=True)
        ]

    def _row(self, text: str, tokens: int) -> Prepared:
        length = tokens + 2
        return Prepared(
            text,
            [0] * min(length, self._max_seq_len),
            is_truncated=length > self._max_seq_len,
            is_spelled=True,
            fingerprint=self._fingerprint,
        )


def _is_ours(config: Mapping[str, Any]) -> bool:
    return "danmaku_version" in config
