"""Words of Chinese danmaku, for whole-word masking: BERT's tokens are single characters, so words must be found.

They are found by jieba's dictionary and hidden Markov model, as `rjieba` (jieba-rs) implements them. Its dictionary is
of general Chinese: 阿夸 may be cut in two. A mask then hides a character, as `char` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.tokenizer import Tokenizer

# Set in the id of a token that goes on with the word of the token before it. A flag travels with its token through
# whatever joins and cuts lines; no vocabulary has a billion tokens.
CONTINUES = 1 << 30


def lines_with_words(tokenizer: Tokenizer, lines: Sequence[str]) -> list[list[int]]:
    """The ids of each line, flagged with CONTINUES inside words."""
    import rjieba

    flagged = []
    for line, (ids, places) in zip(lines, tokenizer.ids_and_places(lines), strict=True):
        word_of: list[int] = []  # of each character, the number of its word
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
    """Whether the token only goes on with a word: BERT marks such a one with ##."""
    return tokenizer.vocab[token].startswith("##")
