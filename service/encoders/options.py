"""What a vector is computed with: bert-serving-start's flags that concern the model, under their own names.

One frozen value goes from the command line to the graph. All of it that changes a vector is in `spelling`, which the
encoder's fingerprint is made of.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import ConfigurationError
from service.model_directory import BertConfig

POOLING_STRATEGIES = ("NONE", "REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED")
OTHER_NAMES = {"FIRST_TOKEN": "CLS_TOKEN", "LAST_TOKEN": "SEP_TOKEN"}
# The order of bert_serving.server.graph.PoolingStrategy, in which SHOW_CONFIG gives the number.
STRATEGY_NUMBERS = {
    name: number
    for number, name in enumerate(
        ("NONE", "REDUCE_MAX", "REDUCE_MEAN", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED")
    )
}
PRECISIONS = ("float32", "int8")
SHORTEST_MAX_SEQ_LEN = 3  # [CLS], a token, [SEP]


@dataclass(frozen=True)
class EncoderOptions:
    """Layers count from the end, −1 being the last, or from 0, the first; several are concatenated, in the order given.

    `check` tells whether a model can follow; the other methods rely on it.
    """

    pooling_layer: tuple[int, ...] = (-2,)
    pooling_strategy: str = "REDUCE_MEAN"  # NONE gives [t, dim] a text; CLS_POOLED ignores pooling_layer
    mask_cls_sep: bool = False  # hides [CLS] and [SEP] from pooling, and from the other tokens' attention
    max_seq_len: int | None = None  # tokens kept, special ones included; None: all that the model has positions for
    cased_tokenization: bool = False
    no_special_token: bool = False  # no [CLS] and [SEP] around texts that come as tokens
    no_position_embeddings: bool = False
    sentence_pairs: bool = False  # `a ||| b` is two texts; off, it is one
    precision: str = "float32"
    allow_inexact: bool = False  # start although int8 is far from float32

    def check(self, config: BertConfig, model: str) -> None:
        """Raises ConfigurationError that names the option and what the model has to offer."""
        if self.strategy not in POOLING_STRATEGIES:
            known = ", ".join((*POOLING_STRATEGIES, *OTHER_NAMES))
            raise ConfigurationError(f"pooling_strategy is {self.pooling_strategy!r}; known are {known}")
        depth = config.num_hidden_layers
        if not self.pooling_layer or not all(-depth - 1 <= layer < depth for layer in self.pooling_layer):
            raise ConfigurationError(
                f"pooling_layer is {list(self.pooling_layer)}; {model} has layers −1 (the last) to −{depth}, "
                f"which are also {depth - 1} to 0, and the embeddings at −{depth + 1}"
            )
        longest = None if self.no_position_embeddings else config.max_position_embeddings
        length = self.length(config)
        if length < SHORTEST_MAX_SEQ_LEN or (longest and length > longest):
            upwards = f"to {longest}" if longest else "or more"
            raise ConfigurationError(f"max_seq_len is {length}; {model} takes {SHORTEST_MAX_SEQ_LEN} {upwards}")
        if self.sentence_pairs and config.type_vocab_size < 2:
            raise ConfigurationError(f"{model} has type_vocab_size 1: it cannot tell the sentences of a pair apart")
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f"precision is {self.precision!r}; known are {', '.join(PRECISIONS)}")

    @property
    def strategy(self) -> str:
        return OTHER_NAMES.get(self.pooling_strategy, self.pooling_strategy)

    def layers(self, config: BertConfig) -> tuple[int, ...]:
        """Which outputs pooling reads: 0 is the embeddings, 1 the first layer, …"""
        depth = config.num_hidden_layers
        if self.strategy == "CLS_POOLED":
            return (depth,)
        return tuple(layer + 1 + (depth if layer < 0 else 0) for layer in self.pooling_layer)

    def dim(self, config: BertConfig) -> int:
        """Length of a vector."""
        return config.hidden_size * len(self.layers(config)) * (2 if self.strategy == "REDUCE_MEAN_MAX" else 1)

    def length(self, config: BertConfig) -> int:
        """Tokens that a text has at most."""
        return config.max_position_embeddings if self.max_seq_len is None else self.max_seq_len

    def spelling(self, config: BertConfig) -> str:
        """Equal for options that give equal vectors of the same model."""
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
            )
            if getattr(self, name)
        ]
        return " ".join(words)
