"""WordPiece over a BERT vocab.txt: the only tokenizer of the repository, for training and for serving.

The work is done by the `tokenizers` library. This file holds what BERT's vocabulary implies (which ids are special,
how long a word may be) and the one number a caller must be told: how many tokens were cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A word of more characters becomes [UNK]: as in bert-serving-server 1.10, server/bert/tokenization.py (Google later
# allowed 200, which matters to nobody but those who laugh in one breath: 2333…, hhhh…).
MAX_CHARACTERS_PER_WORD = 100
# Danmaku repeat: to normalise one takes 4 µs, a third of what answering it from the cache does. These take 10 MB.
REMEMBERED_TEXTS, REMEMBERED_CHARACTERS = 32_768, 32


class Tokenizer:
    """Turns texts into ids. `lowercase` also strips accents, as BERT's uncased and Chinese models expect."""

    def __init__(self, vocab: Sequence[str], *, lowercase: bool = True) -> None:
        ids = {token: index for index, token in enumerate(vocab)}
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}; a BERT vocab.txt has all of {SPECIAL_TOKENS}")
        if len(ids) != len(vocab):
            raise ValueError(f"the vocabulary has {len(vocab)} lines, but only {len(ids)} different tokens")
        self.vocab = list(vocab)
        self._ids = ids
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in SPECIAL_TOKENS)
        self._tokenizer = _Tokenizer(
            WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=MAX_CHARACTERS_PER_WORD)
        )
        self._tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()
        self._normalize_short = lru_cache(REMEMBERED_TEXTS)(self._normalize)

    @classmethod
    def from_file(cls, path: Path, *, lowercase: bool = True) -> Tokenizer:
        """Reads vocab.txt: one token a line, its id the line's number from 0."""
        try:
            return cls(read_vocab(path), lowercase=lowercase)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def normalize(self, text: str) -> str:
        """The text as BERT's normaliser sees it: equal results mean equal tokens, hence equal vectors."""
        return self._normalize_short(text) if len(text) <= REMEMBERED_CHARACTERS else self._normalize(text)

    def _normalize(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        assert normalizer is not None
        return " ".join(normalizer.normalize_str(text).split())

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, whole and without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def ids_and_places(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """`ids`, and of each token the characters of the text that it stands for, as [start, end)."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def ids_of(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens as they stand in the vocabulary; [UNK] for others."""
        return [self._ids.get(token, self.unk_id) for token in tokens]


def read_vocab(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def learn_vocab(texts: Iterable[str], size: int, *, min_frequency: int = 10) -> list[str]:
    """A WordPiece vocabulary of at most `size` tokens: [PAD] … [MASK] first, then characters, then pieces of words.

    Every character seen `min_frequency` times is kept as long as there is room: a danmaku with a character
    that the vocabulary cannot spell is lost to training. Among equally frequent pieces the `tokenizers` library
    chooses differently on every run, so keep the vocabulary of a model rather than learn it again.
    """
    from tokenizers.trainers import WordPieceTrainer

    learner = _Tokenizer(WordPiece(unk_token="[UNK]"))
    learner.normalizer = BertNormalizer(lowercase=True)
    learner.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        limit_alphabet=size - len(SPECIAL_TOKENS) - size // 5,  # a fifth stays for pieces of several characters
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return [*SPECIAL_TOKENS, *sorted(learner.get_vocab().keys() - set(SPECIAL_TOKENS))]
