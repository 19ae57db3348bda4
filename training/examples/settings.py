"""The settings of examples, and the part of the vocabulary that masking needs."""

from __future__ import annotations

from dataclasses import dataclass

from service.tokenizer import Tokenizer

MASKING = ("char", "wwm", "span")


@dataclass(frozen=True)
class ExampleSettings:
    """The settings of create_pretraining_data.py under their names there, with defaults for danmaku."""

    max_seq_length: int = 64  # 96 % of danmaku have 20 characters or fewer
    max_predictions_per_seq: int = 10
    masked_lm_prob: float = 0.15
    masking: str = "char"  # the unit: a token ("char"), a word ("wwm"), or a run of up to three tokens ("span")
    short_seq_prob: float = 0.1  # share of short examples, since the service embeds single danmaku
    dupe_factor: int = 1  # passes over the corpus, each with different masks and partners

    def __post_init__(self) -> None:
        if self.max_seq_length < 5:
            raise ValueError(
                f"invalid max_seq_length: {self.max_seq_length}; expected at least 5, for [CLS] A [SEP] B [SEP]"
            )
        for name in ("max_predictions_per_seq", "dupe_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"invalid {name}: {getattr(self, name)}; expected at least 1")
        if self.masking not in MASKING:
            raise ValueError(f"invalid masking: {self.masking!r}; expected one of {', '.join(MASKING)}")


@dataclass(frozen=True)
class Vocabulary:
    """The part of a vocabulary that masking needs: its size and the ids of special tokens."""

    size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    num_special: int  # ids below this never replace a token

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        special = max(tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) + 1
        size = len(tokenizer.vocab)
        return cls(size, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, special)
