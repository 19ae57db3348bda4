"""Examples equal those of google-research/bert in layout, masks and partners, and are the same for one seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.recordings.documents import Document
from service.tokenizer import Tokenizer
from training.examples.sentence_pairs import group_documents, make_examples, make_shards, sentence_pairs
from training.examples.settings import ExampleSettings, Vocabulary

VOCABULARY = Vocabulary(size=1000, pad_id=0, cls_id=2, sep_id=3, mask_id=4, num_special=5)
# Every token says where it is from: document, line, place.
DOCUMENTS = [[[5 + 90 * d + 3 * n + i for i in range(3)] for n in range(30)] for d in range(11)]
SETTINGS = ExampleSettings(max_seq_length=32)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def document_of(token: int) -> int:
    return (token - 5) // 90


def test_half_of_the_pairs_follow_each_other_and_half_are_from_another_document() -> None:
    """The label says which."""
    labels = []
    for seed in range(40):
        for a, b, is_random_next in sentence_pairs(DOCUMENTS, SETTINGS, np.random.default_rng(seed)):
            assert (document_of(a[0]) != document_of(b[0])) == is_random_next
            labels.append(is_random_next)
    # A little over half, because a line that is left alone can have no true successor.
    assert 0.47 < np.mean(labels) < 0.6


def test_a_following_partner_is_the_next_line() -> None:
    """Untruncated pairs of one document form one run of consecutive tokens."""
    settings = ExampleSettings(max_seq_length=200, short_seq_prob=0.0)
    seen = 0
    for a, b, is_random_next in sentence_pairs(DOCUMENTS, settings, rng()):
        if not is_random_next:
            assert [*a, *b] == list(range(a[0], b[-1] + 1))
            seen += 1
    assert seen


def test_every_line_is_in_an_example() -> None:
    """Lines that a random partner displaces begin the next example."""
    settings = ExampleSettings(max_seq_length=200, short_seq_prob=0.0)  # long enough that nothing is cut off
    own = set()
    for a, b, is_random_next in sentence_pairs(DOCUMENTS, settings, rng()):
        own |= set(a) if is_random_next else {*a, *b}
    assert own == set(range(5, 5 + 90 * 11))


def test_the_layout_is_cls_a_sep_b_sep() -> None:
    """Segments, padding, mask and labels agree with it in every row."""
    features = make_examples(DOCUMENTS, SETTINGS, VOCABULARY, rng())
    shapes = {name: values.shape[1] for name, values in features.items()}
    assert shapes == {
        "input_ids": 32,
        "input_mask": 32,
        "segment_ids": 32,
        "masked_lm_positions": 10,
        "masked_lm_ids": 10,
        "masked_lm_weights": 10,
        "next_sentence_labels": 1,
    }
    assert len(features["input_ids"]) > 50
    for row in range(len(features["input_ids"])):
        count = int(features["masked_lm_weights"][row].sum())
        tokens = features["input_ids"][row].copy()
        positions = features["masked_lm_positions"][row][:count]
        tokens[positions] = features["masked_lm_ids"][row][:count]
        used = int(features["input_mask"][row].sum())
        assert features["input_mask"][row].tolist() == [1] * used + [0] * (32 - used)
        assert (tokens[used:] == VOCABULARY.pad_id).all()
        assert tokens[0] == VOCABULARY.cls_id
        separators = np.flatnonzero(tokens == VOCABULARY.sep_id).tolist()
        assert len(separators) == 2 and separators[1] == used - 1
        first = separators[0]
        expected = [0] * (first + 1) + [1] * (used - first - 1) + [0] * (32 - used)
        assert features["segment_ids"][row].tolist() == expected
        other = document_of(tokens[1]) != document_of(tokens[first + 1])
        assert features["next_sentence_labels"][row] == int(other)
        assert (features["masked_lm_weights"][row][count:] == 0).all()


def test_the_same_seed_makes_the_same_examples_and_another_seed_others() -> None:
    """They are equal to the bit."""
    one, same = (make_examples(DOCUMENTS, SETTINGS, VOCABULARY, rng()) for _ in range(2))
    other = make_examples(DOCUMENTS, SETTINGS, VOCABULARY, np.random.default_rng(8))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["input_ids"], other["input_ids"])


def test_dupe_factor_repeats_the_corpus_with_other_masks() -> None:
    """There are three times as many examples, and hardly any two are equal."""
    once = make_examples(DOCUMENTS, SETTINGS, VOCABULARY, rng())
    settings = ExampleSettings(max_seq_length=32, dupe_factor=3)
    thrice = make_examples(DOCUMENTS, settings, VOCABULARY, rng())
    count = len(thrice["input_ids"])
    assert count == pytest.approx(3 * len(once["input_ids"]), rel=0.1)
    assert len(np.unique(thrice["input_ids"], axis=0)) > 0.95 * count


def test_shards_depend_on_their_documents_seed_and_number_only(corpus: Path) -> None:
    """So they could be made in any order."""
    tokenizer = Tokenizer.from_file(corpus / "vocab.txt")
    made = [list(make_shards(corpus / "train.txt", tokenizer, SETTINGS, seed=3, lines_per_shard=150)) for _ in (1, 2)]
    assert len(made[0]) >= 3
    for one, same in zip(*made, strict=True):
        assert all(np.array_equal(one[name], same[name]) for name in one)


@pytest.mark.parametrize("counts", [[5], [5, 5, 5], [1, 1, 9, 1], [9, 9, 9, 9, 1], [1] * 50])
def test_every_shard_has_several_documents(counts: list[int]) -> None:
    """A single document would have no random partner; no document is lost or moved."""
    documents = [Document(str(number), ["草"] * count, [0.0] * count) for number, count in enumerate(counts)]
    shards = list(group_documents(iter(documents), 8))
    assert [document for shard in shards for document in shard] == documents
    assert len(counts) == 1 or min(map(len, shards)) >= 2


def test_one_document_alone_is_refused() -> None:
    """The next-sentence task would have no wrong answers."""
    with pytest.raises(ValueError, match="got 1 document; expected at least 2"):
        list(sentence_pairs(DOCUMENTS[:1], SETTINGS, rng()))


@pytest.mark.parametrize("name", ["max_predictions_per_seq", "dupe_factor"])
def test_invalid_settings_are_refused(name: str) -> None:
    """The error names them."""
    with pytest.raises(ValueError, match=f"invalid {name}: 0"):
        ExampleSettings(**{name: 0})


def test_a_sequence_too_short_for_a_pair_is_refused() -> None:
    """[CLS] A [SEP] B [SEP] has at least five tokens."""
    with pytest.raises(ValueError, match="invalid max_seq_length: 4"):
        ExampleSettings(max_seq_length=4)
    a, b, _ = next(sentence_pairs(DOCUMENTS, ExampleSettings(max_seq_length=5), rng()))
    assert len(a) == len(b) == 1
