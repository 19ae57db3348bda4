"""Masks hide whole units, about 15 % of tokens, and are a function of an example's key."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from service.tokenizer import SPECIAL_TOKENS, Tokenizer
from training.examples.masking import mask_tokens, replace_masks, row_keys
from training.examples.sentence_pairs import make_examples
from training.examples.settings import ExampleSettings, Vocabulary
from training.examples.words import CONTINUES, tokenize_words

VOCABULARY = Vocabulary(size=1000, pad_id=0, cls_id=2, sep_id=3, mask_id=4, num_special=5)
ROWS, LENGTH = 400, 48
KEYS = row_keys(1, np.zeros(ROWS, np.int64), np.arange(ROWS), np.zeros(ROWS, np.int64))


def examples() -> dict[str, np.ndarray]:
    """Rows [CLS] A [SEP] B [SEP] of various lengths that repeat words of two tokens, of three, and of one."""
    rng = np.random.default_rng(0)
    used = rng.integers(8, LENGTH + 1, ROWS)
    first = rng.integers(3, used - 3)
    ids = rng.integers(5, 1000, (ROWS, LENGTH))
    every = np.arange(ROWS)
    ids[:, 0], ids[every, first], ids[every, used - 1] = 2, 3, 3
    mask = np.arange(LENGTH) < used[:, None]
    starts = np.isin((np.arange(LENGTH) + rng.integers(0, 6, (ROWS, 1))) % 6, (0, 2, 5))
    return {
        "input_ids": np.where(mask, ids, 0).astype(np.int32),
        "input_mask": mask.astype(np.int32),
        "word_starts": starts.astype(np.int32),
        "masked_lm_positions": np.zeros((ROWS, 10), np.int32),
        "masked_lm_ids": np.zeros((ROWS, 10), np.int32),
        "masked_lm_weights": np.zeros((ROWS, 10), np.float32),
    }


def list_predicted(features: dict[str, np.ndarray]) -> list[list[int]]:
    """Returns the predicted positions of each row."""
    counts = features["masked_lm_weights"].sum(axis=1).astype(int)
    return [row[:count].tolist() for row, count in zip(features["masked_lm_positions"], counts, strict=True)]


@pytest.mark.parametrize("masking", ["char", "wwm", "span"])
def test_about_fifteen_percent_are_masked_in_three_ways(masking: str) -> None:
    """[CLS], [SEP] and padding never are; 80 % become [MASK], 10 % another token, 10 % stay."""
    before, fates = examples(), Counter[str]()
    after = mask_tokens(before, ExampleSettings(masking=masking, masked_lm_prob=0.15), VOCABULARY, KEYS)
    shares = []
    for row, positions in enumerate(list_predicted(after)):
        old, new = before["input_ids"][row], after["input_ids"][row]
        candidates = np.flatnonzero((before["input_mask"][row] > 0) & ~np.isin(old, (2, 3)))
        assert 1 <= len(positions) <= 10
        assert positions == sorted(set(positions)) and set(positions) <= set(candidates.tolist())
        assert after["masked_lm_ids"][row][: len(positions)].tolist() == old[positions].tolist()
        untouched = np.setdiff1d(np.arange(LENGTH), positions)
        assert np.array_equal(old[untouched], new[untouched])
        shares.append((len(positions), len(candidates)))
        for position in positions:
            kept = "kept" if new[position] == old[position] else "random"
            fates["mask" if new[position] == VOCABULARY.mask_id else kept] += 1
            assert 4 <= new[position] < 1000
    total = sum(fates.values())
    assert total / sum(count for _, count in shares) == pytest.approx(0.15, abs=0.015)
    assert fates["mask"] / total == pytest.approx(0.8, abs=0.03)
    assert fates["kept"] / total == pytest.approx(0.1, abs=0.03)
    assert fates["random"] / total == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (3, 1), (10, 2), (58, 9), (300, 10)])
def test_at_least_one_and_at_most_max_predictions_are_masked(length: int, count: int) -> None:
    """A danmaku of one character is learned from, too; a long one has no more masks than fit."""
    ids = np.array([[2, *[50] * length, 3, 3]], np.int32)
    before = {"input_ids": ids, "input_mask": np.ones_like(ids)}
    [positions] = list_predicted(mask_tokens(before, ExampleSettings(), VOCABULARY, KEYS[:1]))
    assert len(positions) == count


def test_words_are_masked_whole() -> None:
    """No word is masked partly; [SEP] ends a word."""
    before = examples()
    after = mask_tokens(before, ExampleSettings(masking="wwm"), VOCABULARY, KEYS)
    lengths = Counter[int]()
    for row, positions in enumerate(list_predicted(after)):
        ids = before["input_ids"][row]
        candidate = (before["input_mask"][row] > 0) & ~np.isin(ids, (2, 3))
        words, current = [], []
        for position in range(LENGTH):
            if current and (not candidate[position] or before["word_starts"][row, position]):
                words.append(current)
                current = []
            if candidate[position]:
                current.append(position)
        words += [current] if current else []
        for word in words:
            hidden = set(word) & set(positions)
            assert hidden in (set(), set(word))
            lengths[len(word)] += bool(hidden)
    assert min(lengths[1], lengths[2], lengths[3]) > 50


def test_spans_are_runs_of_up_to_three() -> None:
    """Longer runs are two adjacent spans; single tokens are the most frequent."""
    runs = Counter[int]()
    for positions in list_predicted(mask_tokens(examples(), ExampleSettings(masking="span"), VOCABULARY, KEYS)):
        for run in np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1):
            runs[len(run)] += 1
    assert runs[1] > runs[2] > 0 and runs[3] > 0.1 * runs.total()
    assert sum(count for length, count in runs.items() if length > 3) < 0.15 * runs.total()


def test_a_word_longer_than_max_predictions_is_split() -> None:
    """Otherwise it would never be learned."""
    before = {name: values[:1] for name, values in examples().items()}
    before["input_ids"] = np.array([[2, *range(50, 80), 3, 60, 3]], np.int32)
    before["input_mask"] = np.ones((1, 34), np.int32)
    before["word_starts"] = np.array([[1, 1, *[0] * 29, 1, 1, 1]], np.int32)
    [positions] = list_predicted(mask_tokens(before, ExampleSettings(masking="wwm"), VOCABULARY, KEYS[:1]))
    assert len(positions) == 5


def test_masks_are_a_function_of_the_key() -> None:
    """Other rows of the batch do not matter; every part of the key does."""
    settings = ExampleSettings(masking="span")
    whole = mask_tokens(examples(), settings, VOCABULARY, KEYS)
    some = {name: values[7:9] for name, values in examples().items()}
    part = mask_tokens(some, settings, VOCABULARY, KEYS[7:9])
    assert all(np.array_equal(part[name], whole[name][7:9]) for name in part)
    parts = (np.array([3]), np.array([4]), np.array([5]))
    keys = {int(row_keys(seed, *parts)[0]) for seed in (1, 2)}
    keys |= {
        int(row_keys(1, *(part + (number == moved) for number, part in enumerate(parts)))[0]) for moved in range(3)
    }
    assert len(keys) == 5


def test_masking_again_restores_the_true_tokens_first() -> None:
    """Masks over masks would ask for [MASK]."""
    settings = ExampleSettings(masking="wwm")
    once = mask_tokens(examples(), settings, VOCABULARY, KEYS)
    again = replace_masks(once, settings, VOCABULARY, KEYS)
    assert all(np.array_equal(again[name], once[name]) for name in once)
    other = replace_masks(once, settings, VOCABULARY, KEYS + np.uint64(1))
    assert (other["masked_lm_ids"] != VOCABULARY.mask_id).all()
    assert list_predicted(other) != list_predicted(once)


@pytest.mark.parametrize("masking", ["wwm", "span"])
def test_examples_are_made_with_masks_of_units(masking: str) -> None:
    """The flag that marks the inside of a word leaves no trace in the ids."""
    documents = [[[100 + i, 100 + i | CONTINUES, 200 + i] for i in range(9)] for _ in range(4)]
    if masking == "span":
        documents = [[[token & ~CONTINUES for token in line] for line in document] for document in documents]
    settings = ExampleSettings(max_seq_length=32, masking=masking)
    features = make_examples(documents, settings, VOCABULARY, np.random.default_rng(1))
    assert features["input_ids"].max() < 1000
    assert (features["masked_lm_weights"].sum(axis=1) >= 1).all()
    assert ("word_starts" in features) == (masking == "wwm")


def test_words_of_danmaku_are_found() -> None:
    """A Chinese dictionary finds them; further pieces of a Latin word are its inside, whatever the dictionary says."""
    pytest.importorskip("rjieba")
    tokenizer = Tokenizer([*SPECIAL_TOKENS, *"耻辱下播太可爱了，", "aw", "##sl"])
    [ids] = tokenize_words(tokenizer, ["耻辱下播，可爱 awsl"])
    text = "".join(("+" if token & CONTINUES else " ") + tokenizer.vocab[token & ~CONTINUES] for token in ids)
    assert text == " 耻+辱 下+播 ， 可+爱 aw+##sl"
    assert [token & ~CONTINUES for token in ids] == tokenizer.ids(["耻辱下播，可爱 awsl"])[0]


def test_another_kind_of_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid masking: 'word'; expected one of char, wwm, span"):
        ExampleSettings(masking="word")
