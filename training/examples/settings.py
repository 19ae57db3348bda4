"""What examples are made with, and what masking needs to know of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from service.tokenizer import Tokenizer

MASKING = ("char", "wwm", "span")


@dataclass(frozen=True)
class ExampleSettings:
    """Named as in create_pretraining_data.py, its defaults scaled to danmaku."""

    max_seq_length: int = 64  # 96 % of danmaku have 20 characters or fewer
    max_predictions_per_seq: int = 10
    masked_lm_prob: float = 0.15
    masking: str = "char"  # what is masked as a whole: a token, a word ("wwm"), or up to three tokens ("span")
    short_seq_prob: float = 0.1  # some short examples: what is served is one danmaku
    dupe_factor: int = 1  # how many times the corpus is read, with other masks and partners each time

    def __post_init__(self) -> None:
        if self.max_seq_length < 5:
            raise ValueError(f"max_seq_length is {self.max_seq_length}; [CLS] A [SEP] B [SEP] needs at least 5")
        for name in ("max_predictions_per_seq", "dupe_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.masking not in MASKING:
            raise ValueError(f"masking is {self.masking!r}; it must be one of {', '.join(MASKING)}")


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of the vocabulary."""

    size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    num_special: int  # ids below are never put in place of a token

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        special = max(tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) + 1
        size = len(tokenizer.vocab)
        return cls(size, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, special)
