"""The tokenizer: BERT's rules over our vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TINY_VOCAB

from service.tokenizer import SPECIAL_TOKENS, Tokenizer, learn_vocab


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_VOCAB)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("草", ["草"]),
        ("哈哈哈", ["哈", "哈", "哈"]),
        ("AWSL", ["awsl"]),
        ("kksk", ["kk", "##sk"]),
        ("2333", ["2", "##3", "##3", "##3"]),
        ("阿夸aqua", ["阿", "夸", "aqua"]),
        ("谁?!", ["谁", "?", "!"]),
        ("méa", ["mea"]),
        ("草\u200b\x00", ["草"]),
        ("晚\u3000安", ["晚", "安"]),
        ("喵", ["[UNK]"]),
        ("草😂", ["草", "[UNK]"]),
        ("", []),
        ("2" + "3" * 100, ["[UNK]"]),
    ],
)
def test_texts_become_tokens(tokenizer: Tokenizer, text: str, tokens: list[str]) -> None:
    """Chinese is split by character, other words by the longest piece; case, accents and control characters are
    dropped.
    """
    (ids,) = tokenizer.ids([text])

    assert [TINY_VOCAB[token_id] for token_id in ids] == tokens


@pytest.mark.parametrize("text", ["AWSL", "阿夸 Aqua", " 草 ", "méa", "哈\u200b哈", "晚\u3000\t安", ""])
def test_the_normalised_text_has_the_tokens_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    """So it can be the cache key of the text; normalising it again changes nothing."""
    normalized = tokenizer.normalize(text)

    assert tokenizer.ids([normalized]) == tokenizer.ids([text])
    assert tokenizer.normalize(normalized) == normalized


def test_spellings_of_one_danmaku_have_one_key(tokenizer: Tokenizer) -> None:
    assert len({tokenizer.normalize(text) for text in ("Awsl", "AWSL", "awsl ", "áwsl", "aw\u200bsl")}) == 1
    assert tokenizer.normalize("草") != tokenizer.normalize("草草")
    assert tokenizer.normalize(" \u3000\n") == ""


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path: Path) -> None:
    """The message names the file and what is missing."""
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n草\n", encoding="utf-8")

    with pytest.raises(ValueError, match=r"vocab\.txt: the vocabulary lacks \[MASK\]"):
        Tokenizer.from_file(path)


def test_a_vocabulary_with_repeats_is_refused() -> None:
    with pytest.raises(ValueError, match="7 lines but only 6 different"):
        Tokenizer([*SPECIAL_TOKENS, "草", "草"])


def test_a_learned_vocabulary_spells_what_it_was_learned_from() -> None:
    """It contains special tokens first, every frequent character, and frequent words as a whole."""
    texts = ["awsl 草"] * 30 + ["哈哈哈 kksk"] * 20 + ["喵"]
    vocab = learn_vocab(texts, 60, min_frequency=10)
    tokenizer = Tokenizer(vocab)

    assert tuple(vocab[:5]) == SPECIAL_TOKENS
    assert len(vocab) <= 60
    assert {"草", "哈", "awsl", "kksk"} <= set(vocab)
    assert all(tokenizer.unk_id not in ids for ids in tokenizer.ids(["awsl 草", "哈哈哈 kksk"]))
