"""Prepares texts and token lists for the model.

    [CLS] a [SEP]              a text, or the tokens of one
    [CLS] a [SEP] b [SEP]      a pair; b is segment 1
    a                          tokens with no_special_token

It follows bert-serving-server 1.10 (server/bert/extract_features.py) except where that fails: a text without tokens
becomes [CLS] [SEP] instead of getting lost, and pairs are recognised only with the option sentence_pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.encoders.model import Prepared
from service.encoders.options import EncoderOptions
from service.tokenizer import Tokenizer

# The last ` ||| ` of a text without line breaks, with something on both sides.
PAIR = re.compile(r"^(.*) \|\|\| (.*)$")
PAIR_TOKEN = "|||"


@dataclass(frozen=True, slots=True)
class TextTokens:
    """The tokens of a text; places are [start, end) in characters of the text."""

    tokens: list[str]  # [CLS] … [SEP]
    ids: list[int]
    unknown: list[tuple[int, int]]  # places that became [UNK]
    end: int  # the text is cut off here


class Inputs:
    def __init__(
        self, tokenizer: Tokenizer, options: EncoderOptions, max_seq_len: int, *, fingerprint: str = ""
    ) -> None:
        self._tokenizer, self._options, self._max_seq_len = tokenizer, options, max_seq_len
        self._fingerprint = fingerprint

    @property
    def vocab(self) -> list[str]:
        return self._tokenizer.vocab

    @property
    def rules(self) -> dict[str, bool | None]:
        return self._tokenizer.rules

    def normalize(self, text: str) -> str:
        return self._tokenizer.normalize(text)

    def prepare_normalized(self, texts: Sequence[str]) -> list[Prepared]:
        """Prepares results of `Tokenizer.normalize`; never pairs."""
        return [self._row(text, ids) for text, ids in zip(texts, self._tokenizer.ids(texts), strict=True)]

    def prepare_texts(self, texts: Sequence[str]) -> list[Prepared]:
        """Prepares texts as a client sent them, including pairs with the option sentence_pairs."""
        if not self._options.sentence_pairs:
            return self.prepare_normalized([self._tokenizer.normalize(text) for text in texts])
        halves = [match.groups() if (match := PAIR.match(text.strip())) else (text, "") for text in texts]
        first = self._tokenizer.ids([half[0] for half in halves])
        second = self._tokenizer.ids([half[1] for half in halves])
        rows = []
        for (a, b), ids_a, ids_b in zip(halves, first, second, strict=True):
            text = self._tokenizer.normalize(a)
            if ids_b:  # a normalised text has no line break, so a pair never equals a text
                text += "\n" + self._tokenizer.normalize(b)
            rows.append(self._row(text, ids_a, ids_b))
        return rows

    def prepare_tokens(self, lists: Sequence[Sequence[str]]) -> list[Prepared]:
        """Prepares texts that were tokenized elsewhere; tokens that are not in the vocabulary become [UNK]."""
        rows = []
        for tokens in lists:
            first, second = list(tokens), []
            if self._options.sentence_pairs and PAIR_TOKEN in first:
                at = first.index(PAIR_TOKEN)
                first, second = first[:at], first[at + 1 :]
            a, b = self._tokenizer.look_up_ids(first), self._tokenizer.look_up_ids(second)
            # A normalised text has no tabs either.
            text = _join_ids(a) + ("\n" + _join_ids(b) if b else "")
            rows.append(self._row(text, a, b, special=not self._options.no_special_token or bool(b) or not a))
        return rows

    def tokens(self, prepared: Prepared) -> list[str]:
        """Returns the tokens that the model reads, special ones included."""
        return [self._tokenizer.vocab[token] for token in prepared.ids]

    def explain(self, text: str) -> TextTokens:
        """Tokenizes a text as a client sent it, never as a pair."""
        ((ids, places),) = self._tokenizer.ids_and_places([text])
        row = self._row(self._tokenizer.normalize(text), ids)
        count = len(row.ids) - 2  # without [CLS] and [SEP]
        unknown = [place for token, place in zip(ids[:count], places, strict=False) if token == self._tokenizer.unk_id]
        return TextTokens(self.tokens(row), row.ids, unknown, len(text) if count == len(ids) else places[count][0])

    def _row(self, text: str, a: list[int], b: Sequence[int] = (), *, special: bool = True) -> Prepared:
        tokenizer, length = self._tokenizer, len(a) + len(b)
        if b:
            a, b = _truncate_pair(a, b, self._max_seq_len - 3)
        else:
            a = a[: self._max_seq_len - 2 if special else self._max_seq_len]
        ids = [tokenizer.cls_id, *a, tokenizer.sep_id] if special else a
        segment_b = len(ids) if b else None
        if b:
            ids = [*ids, *b, tokenizer.sep_id]
        return Prepared(
            text,
            ids,
            is_truncated=len(a) + len(b) < length,
            is_spelled=any(token != tokenizer.unk_id for part in (a, b) for token in part),
            segment_b=segment_b,
            has_special_tokens=special,
            fingerprint=self._fingerprint,
        )


def _join_ids(ids: Iterable[int]) -> str:
    return "".join(f"\t{token}" for token in ids)


def _truncate_pair(a: Sequence[int], b: Sequence[int], max_tokens: int) -> tuple[list[int], list[int]]:
    """Removes the last token of the longer list, or of b if they are equally long, until both fit."""
    keep_a, keep_b = len(a), len(b)
    while keep_a + keep_b > max(max_tokens, 0):
        if keep_a > keep_b:
            keep_a -= 1
        else:
            keep_b -= 1
    return list(a[:keep_a]), list(b[:keep_b])
