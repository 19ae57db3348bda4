"""Tokenizes with WordPiece and a BERT vocab.txt, for both training and serving.

The `tokenizers` library does the work. This file adds BERT's special tokens and its limit on the length of a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A longer word becomes [UNK], as in bert-serving-server 1.10, server/bert/tokenization.py. Google later allowed 200,
# which only affects laughter without spaces (2333…, hhhh…).
MAX_CHARACTERS_PER_WORD = 100
# Danmaku repeat, and normalising one takes 4 µs, a third of a cached response. This cache takes 10 MB.
CACHED_TEXTS, CACHED_CHARACTERS = 32_768, 32


class Tokenizer:
    """Turns texts into ids. `lowercase` also strips accents, as BERT's uncased and Chinese models expect, unless
    `strip_accents` says otherwise; `split_chinese` makes a word of every Chinese character.
    """

    def __init__(
        self,
        vocab: Sequence[str],
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
    ) -> None:
        ids = {token: index for index, token in enumerate(vocab)}
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}; expected all of {', '.join(SPECIAL_TOKENS)}")
        if len(ids) != len(vocab):
            raise ValueError(f"the vocabulary has {len(vocab)} lines but only {len(ids)} different tokens")
        self.vocab = list(vocab)
        self._ids = ids
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in SPECIAL_TOKENS)
        self._tokenizer = _Tokenizer(
            WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=MAX_CHARACTERS_PER_WORD)
        )
        self.rules = {"lowercase": lowercase, "strip_accents": strip_accents, "split_chinese": split_chinese}
        self._tokenizer.normalizer = BertNormalizer(
            lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=split_chinese
        )
        self._tokenizer.pre_tokenizer = BertPreTokenizer()
        self._normalize_short = lru_cache(CACHED_TEXTS)(self._normalize)

    @classmethod
    def from_file(cls, path: Path, *, lowercase: bool = True) -> Tokenizer:
        """Reads vocab.txt: one token per line, whose id is the number of the line, counted from 0."""
        try:
            return cls(read_vocab(path), lowercase=lowercase)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def normalize(self, text: str) -> str:
        """Applies BERT's normaliser. Equal results mean equal tokens, and therefore equal vectors."""
        return self._normalize_short(text) if len(text) <= CACHED_CHARACTERS else self._normalize(text)

    def _normalize(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        assert normalizer is not None
        return " ".join(normalizer.normalize_str(text).split())

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, not truncated and without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def ids_and_places(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Returns `ids` and the place of each token in the text, in characters [start, end)."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def to_json(self) -> str:
        """Returns the content of tokenizer.json: this tokenizer, with [CLS] and [SEP] around texts."""
        whole = _Tokenizer.from_str(self._tokenizer.to_str())
        whole.add_special_tokens(list(SPECIAL_TOKENS))
        whole.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)],
        )
        return str(whole.to_str(pretty=True)) + "\n"

    def look_up_ids(self, tokens: Iterable[str]) -> list[int]:
        """Returns the ids of tokens of the vocabulary; [UNK] for others."""
        return [self._ids.get(token, self.unk_id) for token in tokens]


def read_vocab(path: Path) -> list[str]:
    """Reads one token per line; removes a byte-order mark, trailing blanks, and blank lines at the end."""
    lines = [line.rstrip(" \t\r") for line in path.read_text(encoding="utf-8-sig").split("\n")]
    while lines and not lines[-1]:
        del lines[-1]
    return lines


def learn_vocab(texts: Iterable[str], size: int, *, min_frequency: int = 10) -> list[str]:
    """Learns a WordPiece vocabulary of at most `size` tokens: [PAD] … [MASK], then characters and pieces of words.

    Every character seen `min_frequency` times is kept while there is room, since training cannot use a danmaku with an
    unknown character. The `tokenizers` library breaks ties between equally frequent pieces differently on every run,
    so keep a model's vocabulary instead of learning it again.
    """

    from tokenizers.trainers import WordPieceTrainer

    learner = _Tokenizer(WordPiece(unk_token="[UNK]"))
    learner.normalizer = BertNormalizer(lowercase=True)
    learner.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        limit_alphabet=size - len(SPECIAL_TOKENS) - size // 5,  # a fifth is reserved for pieces of several characters
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return [*SPECIAL_TOKENS, *sorted(learner.get_vocab().keys() - set(SPECIAL_TOKENS))]
