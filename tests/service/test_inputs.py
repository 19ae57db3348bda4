"""The model's input for texts and tokens of a client, compared with bert-serving-server 1.10."""

from __future__ import annotations

import pytest
from conftest import TINY_VOCAB

from service.encoders.inputs import Inputs
from service.encoders.options import EncoderOptions
from service.tokenizer import Tokenizer


def make(max_seq_len: int = 16, **options: object) -> Inputs:
    return Inputs(Tokenizer(TINY_VOCAB), EncoderOptions(**options), max_seq_len)


def show(inputs: Inputs, texts: list[str] | list[list[str]]) -> list[str]:
    """Returns the rows' tokens, with a double bar before segment B."""
    of = inputs.prepare_tokens if isinstance(texts[0], list) else inputs.prepare_texts
    rows = []
    for prepared in of(texts):
        tokens = inputs.tokens(prepared)
        at = len(tokens) if prepared.segment_b is None else prepared.segment_b
        rows.append(" ".join(tokens[:at]) + (f" ‖ {' '.join(tokens[at:])}" if tokens[at:] else ""))
    return rows


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("AWSL 草", "[CLS] awsl 草 [SEP]"),
        ("kksk😂", "[CLS] [UNK] [SEP]"),
        ("", "[CLS] [SEP]"),
        (" \u3000\n", "[CLS] [SEP]"),
        ("草 ||| 晚安", "[CLS] 草 [UNK] [UNK] [UNK] 晚 安 [SEP]"),
    ],
)
def test_texts(text: str, row: str) -> None:
    """Unless pairs are enabled, bars are ordinary characters."""
    assert show(make(), [text]) == [row]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("草 ||| 晚安", "[CLS] 草 [SEP] ‖ 晚 安 [SEP]"),
        ("草 ||| 晚 ||| 安", "[CLS] 草 [UNK] [UNK] [UNK] 晚 [SEP] ‖ 安 [SEP]"),
        ("草|||晚安", "[CLS] 草 [UNK] [UNK] [UNK] 晚 安 [SEP]"),
        (" ||| 晚安", "[CLS] [UNK] [UNK] [UNK] 晚 安 [SEP]"),
        ("\u200b ||| 晚安", "[CLS] [SEP] ‖ 晚 安 [SEP]"),
        ("草 ||| \u200b", "[CLS] 草 [SEP]"),
        ("草\n ||| 晚安", "[CLS] 草 [UNK] [UNK] [UNK] 晚 安 [SEP]"),
        ("草", "[CLS] 草 [SEP]"),
    ],
)
def test_pairs(text: str, row: str) -> None:
    """The last ` ||| ` divides a text without line breaks if both sides contain something."""
    assert show(make(sentence_pairs=True), [text]) == [row]


@pytest.mark.parametrize(
    ("options", "tokens", "row"),
    [
        ({}, ["kk", "##sk", "AWSL", "😂"], "[CLS] kk ##sk [UNK] [UNK] [SEP]"),
        ({}, ["草", "|||", "晚"], "[CLS] 草 [UNK] 晚 [SEP]"),
        ({}, ["[CLS]", "草"], "[CLS] [CLS] 草 [SEP]"),
        ({"sentence_pairs": True}, ["草", "|||", "晚", "|||"], "[CLS] 草 [SEP] ‖ 晚 [UNK] [SEP]"),
        ({"no_special_token": True}, ["草", "晚"], "草 晚"),
        ({"no_special_token": True}, [], "[CLS] [SEP]"),
        (
            {"no_special_token": True, "sentence_pairs": True},
            ["草", "|||", "晚"],
            "[CLS] 草 [SEP] ‖ 晚 [SEP]",
        ),
    ],
)
def test_tokens(options: dict[str, object], tokens: list[str], row: str) -> None:
    """They are looked up in the vocabulary as they are; special tokens are added unless that is disabled."""
    assert show(make(**options), [tokens]) == [row]


def test_no_special_tokens_applies_to_tokens_only() -> None:
    assert show(make(no_special_token=True), ["草"]) == ["[CLS] 草 [SEP]"]


@pytest.mark.parametrize(
    ("options", "given", "row"),
    [
        ({}, "草草草草草草", "[CLS] 草 草 草 草 [SEP]"),
        ({}, ["草"] * 7, "[CLS] 草 草 草 草 [SEP]"),
        ({"no_special_token": True}, ["草"] * 7, "草 草 草 草 草 草"),
        ({"sentence_pairs": True}, "草草草草 ||| 晚", "[CLS] 草 草 [SEP] ‖ 晚 [SEP]"),
        ({"sentence_pairs": True}, "草 ||| 晚晚晚晚", "[CLS] 草 [SEP] ‖ 晚 晚 [SEP]"),
        ({"sentence_pairs": True}, "草草草 ||| 晚晚晚", "[CLS] 草 草 [SEP] ‖ 晚 [SEP]"),
    ],
)
def test_long_inputs_are_truncated(options: dict[str, object], given: str | list[str], row: str) -> None:
    """Of a pair, the longer half is cut first."""
    inputs = make(6, **options)
    (prepared,) = inputs.prepare_texts([given]) if isinstance(given, str) else inputs.prepare_tokens([given])

    assert show(inputs, [given]) == [row]
    assert prepared.is_truncated


def test_inputs_are_equal_exactly_if_their_spelling_is() -> None:
    """The batcher sends one of several texts of the same spelling."""
    inputs = make(sentence_pairs=True, no_special_token=True)
    texts = inputs.prepare_texts(["晚 安", "晚 ||| 安", "AWSL", "awsl ", "晚 ||| \u200b", "晚"])
    tokens = inputs.prepare_tokens([["晚", "安"], ["晚", "|||", "安"], ["awsl"], ["喵"], ["😂"]])
    spelled: dict[str, tuple[object, ...]] = {}
    for prepared in texts + tokens:
        row = (prepared.ids, prepared.segment_b, prepared.has_special_tokens)
        assert spelled.setdefault(prepared.text, row) == row

    assert len(spelled) == 4 + 4  # three were spelled like another


def test_cased_vocabularies_keep_capitals_and_accents() -> None:
    vocab = [*TINY_VOCAB, "AWSL", "méa"]
    cased = Inputs(Tokenizer(vocab, lowercase=False), EncoderOptions(cased_tokenization=True), 16)

    assert show(cased, ["AWSL méa mea"]) == ["[CLS] AWSL méa mea [SEP]"]
