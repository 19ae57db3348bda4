"""The options that affect vectors: bert-serving-start's model flags, under the same names.

One frozen value goes from the command line to the graph. Everything in it that changes a vector is part of
`fingerprint_text`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.encoders.device import PRECISIONS
from service.errors import ConfigurationError
from service.huggingface import Pooling
from service.model_directory import BertConfig, ModelDirectory

POOLING_STRATEGIES = ("NONE", "REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED")
OTHER_NAMES = {"FIRST_TOKEN": "CLS_TOKEN", "LAST_TOKEN": "SEP_TOKEN"}
SHORTEST_MAX_SEQ_LEN = 3  # [CLS], a token, [SEP]


@dataclass(frozen=True)
class EncoderOptions:
    """How vectors are computed. Layers count from −1, the last, down, or from 0, the first, up; several are
    concatenated in the given order.

    Call `complete` first; the other methods rely on it.
    """

    pooling_layer: tuple[int, ...] | None = None  # None: the model's own, which is −2 in bert-as-service's directories
    pooling_strategy: str | None = None  # None: the model's own; NONE: [t, dim] per text; CLS_POOLED: of the last layer
    mask_cls_sep: bool = False  # hides [CLS] and [SEP] from pooling, and from the other tokens' attention
    max_seq_len: int | None = None  # maximum tokens, special ones included; None: the model's own
    cased_tokenization: bool = False
    no_special_token: bool = False  # no [CLS] and [SEP] around texts that come as tokens
    no_position_embeddings: bool = False
    sentence_pairs: bool = False  # `a ||| b` is two texts
    precision: str = "float32"
    allow_inexact: bool = False  # skip the check that another precision is close to float32
    normalize: bool = False  # scale vectors to length 1; set by models only, never by a flag

    def complete(self, directory: ModelDirectory, model: str) -> EncoderOptions:
        """Returns these options, completed by the model's own. Raises ConfigurationError as `check` does."""
        own = directory.pooling
        completed = replace(
            self,
            pooling_layer=own.layer if self.pooling_layer is None else self.pooling_layer,
            pooling_strategy=own.strategy if self.pooling_strategy is None else self.pooling_strategy,
            max_seq_len=own.max_seq_len if self.max_seq_len is None else self.max_seq_len,
            cased_tokenization=not directory.tokenizer.rules["lowercase"],
            normalize=own.normalize,
        )
        completed.check(directory.config, model)
        return completed

    def check(self, config: BertConfig, model: str) -> None:
        """Raises ConfigurationError that names the invalid option and the values that the model supports."""
        if self.strategy not in POOLING_STRATEGIES:
            known = ", ".join((*POOLING_STRATEGIES, *OTHER_NAMES))
            raise ConfigurationError(f"invalid pooling_strategy: {self.pooling_strategy!r}; expected one of {known}")
        depth = config.num_hidden_layers
        layers = self.pooling_layer or ()
        if not layers or not all(-depth - 1 <= layer < depth for layer in layers):
            raise ConfigurationError(
                f"invalid pooling_layer: {list(layers)}; {model} has layers −1 (the last) to −{depth}, "
                f"or {depth - 1} to 0, and the embeddings at −{depth + 1}"
            )
        longest = None if self.no_position_embeddings else config.max_position_embeddings
        length = self.length(config)
        if length < SHORTEST_MAX_SEQ_LEN or (longest and length > longest):
            upper = f"to {longest}" if longest else "or more"
            raise ConfigurationError(
                f"invalid max_seq_len: {length}; expected {SHORTEST_MAX_SEQ_LEN} {upper} for {model}"
            )
        if self.sentence_pairs and config.type_vocab_size < 2:
            raise ConfigurationError(f"invalid sentence_pairs: {model} has type_vocab_size 1; expected 2 for pairs")
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f"invalid precision: {self.precision!r}; expected one of {', '.join(PRECISIONS)}")

    @property
    def is_checked(self) -> bool:
        """Whether vectors are compared with those in float32 before they are served."""
        return self.precision != "float32" and not self.allow_inexact

    def is_own(self, pooling: Pooling) -> bool:
        """Returns whether vectors are pooled as the model was trained, so that its training applies to them."""
        return (self.pooling_layer, self.strategy) == (pooling.layer, pooling.strategy)

    @property
    def strategy(self) -> str:
        assert self.pooling_strategy is not None, "complete() was not called"
        return OTHER_NAMES.get(self.pooling_strategy, self.pooling_strategy)

    def layers(self, config: BertConfig) -> tuple[int, ...]:
        """Returns the outputs that pooling reads: 0 is the embeddings, 1 the first layer, …"""
        depth = config.num_hidden_layers
        if self.strategy == "CLS_POOLED":
            return (depth,)
        assert self.pooling_layer is not None, "complete() was not called"
        return tuple(layer + 1 + (depth if layer < 0 else 0) for layer in self.pooling_layer)

    def dim(self, config: BertConfig) -> int:
        """Returns the length of a vector."""
        return config.hidden_size * len(self.layers(config)) * (2 if self.strategy == "REDUCE_MEAN_MAX" else 1)

    def length(self, config: BertConfig) -> int:
        """Returns the maximum number of tokens of a text."""
        return config.max_position_embeddings if self.max_seq_len is None else self.max_seq_len

    def fingerprint_text(self, config: BertConfig) -> str:
        """Returns a text that is equal for options that give equal vectors with the same model."""

        from_the_end = tuple(layer - config.num_hidden_layers - 1 for layer in self.layers(config))
        words = [str(from_the_end), self.strategy, str(self.length(config)), self.precision]
        words += [
            name
            for name in (
                "mask_cls_sep",
                "cased_tokenization",
                "no_special_token",
                "no_position_embeddings",
                "sentence_pairs",
                "normalize",
            )
            if getattr(self, name)
        ]
        return " ".join(words)
