"""The model behind a link, from what its worker says of itself.

Our worker tells its fingerprint and its vocabulary, so a gateway reads texts exactly as the worker will. A genuine
bert-serving-server tells neither. Its fingerprint is a hash of the paths and options that it shows, which means that
workers of one model have to name it alike, and that a checkpoint has to get a new name with its new weights. Its
normaliser needs no vocabulary, but the length of a text is then a guess, and so is `truncated`; a text of which the
vocabulary knows nothing cannot be told from others.
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
from service.encoders.link import Link
from service.encoders.model import Model, Prepared, Reader
from service.encoders.options import EncoderOptions
from service.tokenizer import SPECIAL_TOKENS, Tokenizer

# What a genuine server shows of that which changes a vector.
TELLING = (
    *("model_dir", "tuned_model_dir", "ckpt_name", "config_name", "do_lower_case", "max_seq_len", "mask_cls_sep"),
    *("pooling_layer", "pooling_strategy", "no_position_embeddings", "fp16"),
)
MAX_SEQ_LEN = 512  # BERT's, of a genuine server that has no limit of its own
CHARACTERS_PER_TOKEN = 3  # of a word in letters or digits, about


class Unusable(Exception):
    """Why a worker cannot serve a gateway."""


def fingerprint_of(config: Mapping[str, Any]) -> str:
    """Raises Unusable."""
    if "server_version" not in config:
        raise Unusable("it answers, but not as a worker does")
    if config.get("pooling_strategy") == wire.STRATEGIES.index("NONE"):
        raise Unusable("its pooling_strategy is NONE, which gives no vector of a whole text")
    if _is_ours(config):
        return str(config.get("fingerprint"))
    shown = {name: config.get(name) for name in TELLING}
    return sha256(orjson.dumps(shown)).hexdigest()[:16]


async def learn_model(link: Link) -> Model:
    """Raises Unusable, WorkerLost or WorkerFailed."""
    config, fingerprint = link.config, fingerprint_of(link.config)
    reader: Reader
    try:
        lowercase = bool(config["do_lower_case"])
        if _is_ours(config):
            told = await link.ask(wire.SHOW_VOCAB)
            name, dim, max_seq_len = str(config["model"]), int(config["dim"]), int(told["max_seq_len"])
            tokenizer = await asyncio.to_thread(Tokenizer, told["vocab"], lowercase=lowercase)
            reader = Inputs(tokenizer, EncoderOptions(), max_seq_len, fingerprint=fingerprint)
        else:
            name = PurePath(config.get("tuned_model_dir") or config["model_dir"]).name
            _, dim = (await link.encode(["a"])).shape
            max_seq_len = config["max_seq_len"] or MAX_SEQ_LEN
            reader = GuessedInputs(max_seq_len, lowercase=lowercase, fingerprint=fingerprint)
        strategy = wire.STRATEGIES[config["pooling_strategy"]]
        return Model(name, fingerprint, dim, max_seq_len, tuple(config["pooling_layer"]), strategy, reader)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Unusable(f"what it says of its model cannot be used: {error!r}") from None


class GuessedInputs:
    """A `Reader` without the vocabulary: what would be the tokens' ids is only as long as they, about."""

    def __init__(self, max_seq_len: int, *, lowercase: bool, fingerprint: str) -> None:
        self._max_seq_len, self._fingerprint = max_seq_len, fingerprint
        # With nothing in its vocabulary, a token is a word, a Chinese character or a punctuation mark.
        self._tokenizer = Tokenizer(SPECIAL_TOKENS, lowercase=lowercase)

    def normalize(self, text: str) -> str:
        return self._tokenizer.normalize(text)

    def of_normalized(self, texts: Sequence[str]) -> list[Prepared]:
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
