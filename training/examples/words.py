"""Finds the words of Chinese danmaku, for whole-word masking: BERT's tokens are single characters.

`rjieba` (jieba-rs) finds them, with jieba's dictionary and hidden Markov model. The dictionary is of general Chinese
and may split 阿夸 in two; a mask then hides one character, as with `char`.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.tokenizer import Tokenizer

# Set in the id of a token that continues the word of the token before it. The flag stays with its token when lines
# are joined and truncated; no vocabulary has a billion tokens.
CONTINUES = 1 << 30


def tokenize_words(tokenizer: Tokenizer, lines: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each line, flagged with CONTINUES inside words."""
    import rjieba

    flagged = []
    for line, (ids, places) in zip(lines, tokenizer.ids_and_places(lines), strict=True):
        word_of: list[int] = []  # the number of each character's word
        for number, word in enumerate(rjieba.cut(line)):
            word_of += [number] * len(word)
        words = [word_of[start] for start, _ in places]
        flagged.append(
            [
                token | CONTINUES
                if place and (words[place] == words[place - 1] or _is_piece(tokenizer, token))
                else token
                for place, token in enumerate(ids)
            ]
        )
    return flagged


def _is_piece(tokenizer: Tokenizer, token: int) -> bool:
    """Returns whether the token continues a word, which BERT marks with ##."""
    return tokenizer.vocab[token].startswith("##")
