"""The four numbers are means over the whole set, reproducible, with intervals."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from service.model_directory import open_model_directory
from service.tokenizer import Tokenizer
from training.bert.losses import METRICS, losses
from training.bert.model import variable_shapes
from training.corpus.clean import clean
from training.corpus.files import Shard
from training.evaluation.evaluate import SEED, Evaluation, clean_texts, evaluate, weighted_means, wilson_interval
from training.evaluation.report import format_pretraining
from training.evaluation.tables import write_json
from training.examples.sentence_pairs import make_shards
from training.examples.settings import ExampleSettings

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def rows(models: tuple[Path, Path], corpus: Path, danmaku: Path) -> list[Evaluation]:
    return evaluate(list(models), [danmaku, corpus / "heldout.txt"])


def test_every_model_is_evaluated_on_every_corpus(
    rows: list[Evaluation], models: tuple[Path, Path], corpus: Path, danmaku: Path
) -> None:
    """There is one row for each pair, in the given order, which names both."""
    corpora = (str(danmaku), str(corpus / "heldout.txt"))
    assert [(row.model, row.corpus) for row in rows] == [(str(m), c) for m in models for c in corpora]
    assert [row.checkpoint for row in rows] == [
        "model.ckpt-0",
        "model.ckpt-0",
        "model.ckpt-20",
        "model.ckpt-20",
    ]


def test_an_untrained_model_guesses(rows: list[Evaluation]) -> None:
    """Its losses are those of a uniform guess, and its accuracies those of chance."""
    row = rows[0]
    assert row.masked_lm_loss == pytest.approx(math.log(row.vocab_size), rel=0.05)
    assert row.next_sentence_loss == pytest.approx(math.log(2), rel=0.05)
    assert row.masked_lm_accuracy <= row.commonest_token_share + 0.02
    assert row.next_sentence_accuracy_low < 0.5 < row.next_sentence_accuracy_high


def test_training_improves_the_numbers(rows: list[Evaluation]) -> None:
    """Twenty steps are enough to lower the loss on the training set."""
    assert rows[2].masked_lm_loss < rows[0].masked_lm_loss


def test_models_with_one_vocabulary_answer_the_same_questions(rows: list[Evaluation]) -> None:
    """The examples and the values for a uniform guess do not depend on the model."""
    for before, after in zip(rows[:2], rows[2:], strict=True):
        for name in ("examples", "predictions", "commonest_token", "commonest_token_share", "seed"):
            assert getattr(before, name) == getattr(after, name)


def test_the_numbers_are_the_same_on_every_run(
    rows: list[Evaluation], models: tuple[Path, Path], danmaku: Path
) -> None:
    """They are equal to the last bit."""
    assert evaluate([models[1]], [danmaku]) == [rows[2]]


def test_the_numbers_are_those_of_all_examples_in_one_batch(
    rows: list[Evaluation], models: tuple[Path, Path], corpus: Path
) -> None:
    """The test makes the batch by hand: the frozen seed, the model's length, BERT's own shares."""
    opened = open_model_directory(models[1], variable_shapes)
    settings = ExampleSettings(max_seq_length=32)
    tokenizer = Tokenizer.from_file(models[1] / "vocab.txt")
    (features,) = make_shards(corpus / "heldout.txt", tokenizer, settings, seed=SEED, lines_per_shard=100_000)
    expected = losses(opened.weights, opened.config, {name: tf.constant(v) for name, v in features.items()})
    row = rows[3]
    assert (row.examples, row.predictions) == (len(features["input_ids"]), int(expected["predictions"]))
    for name in METRICS:
        assert getattr(row, name) == pytest.approx(float(expected[name]), rel=1e-5)
    ids = features["masked_lm_ids"][features["masked_lm_weights"] > 0]
    counts = np.bincount(ids)
    assert row.commonest_token == tokenizer.vocab[int(counts.argmax())]
    assert row.commonest_token_share == counts.max() / len(ids)
    ones = features["next_sentence_labels"].mean()
    assert row.commonest_next_sentence_share == pytest.approx(max(ones, 1 - ones))
    assert row.commonest_next_sentence_label == int(ones > 0.5)


def test_the_questions_are_frozen(danmaku: Path, tmp_path: Path) -> None:
    """Published numbers were measured with these masks, partners and order, so a change is a mistake."""
    vocab = REPOSITORY / "models/danmaku-bert-mini/vocab.txt"
    clean([danmaku], tmp_path, vocab=vocab, heldout=0)
    shards = make_shards(
        tmp_path / "train.txt", Tokenizer.from_file(vocab), ExampleSettings(), seed=SEED, lines_per_shard=100_000
    )
    digest = blake2b(digest_size=8)
    for features in shards:
        for name in sorted(features):
            digest.update(features[name].tobytes())
    assert digest.hexdigest() == "f6adb422257c0292"


def test_batches_are_weighted_by_their_size() -> None:
    """Masked-LM numbers are weighted by masked tokens, next-sentence numbers by examples."""
    answers = iter(
        [
            {"masked_lm_accuracy": 1.0, "masked_lm_loss": 2.0, "predictions": 30.0}
            | {"next_sentence_accuracy": 1.0, "next_sentence_loss": 0.5},
            {"masked_lm_accuracy": 0.0, "masked_lm_loss": 6.0, "predictions": 10.0}
            | {"next_sentence_accuracy": 0.0, "next_sentence_loss": 0.9},
        ]
    )
    batches = iter([{"input_ids": np.zeros((1, 4))}, {"input_ids": np.zeros((3, 4))}])
    means, errors = weighted_means(batches, lambda batch: next(answers))
    assert means == pytest.approx(
        {
            "masked_lm_accuracy": 0.75,
            "masked_lm_loss": 3.0,
            "next_sentence_accuracy": 0.25,
            "next_sentence_loss": 0.8,
        }
    )
    assert set(errors.values()) == {None}  # of two batches


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    """The values are those of R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    assert wilson_interval(right / n, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(1 - right / n, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_a_limit_takes_the_first_examples(models: tuple[Path, Path], danmaku: Path) -> None:
    """There are exactly as many, or the whole set if it has fewer."""
    limited, whole = (evaluate([models[0]], [danmaku], max_examples=n)[0] for n in (10, 10_000))
    assert limited.examples == 10 < whole.examples
    assert limited.predictions < whole.predictions
    with pytest.raises(ValueError, match="invalid max_examples: 0"):
        evaluate([models[0]], [danmaku], max_examples=0)


def test_the_standard_error_is_what_other_samples_show() -> None:
    """Losses vary from batch to batch; many samples of 200 batches spread as predicted."""
    rng = np.random.default_rng(0)

    def sample() -> tuple[float, float]:
        losses_, predictions = 3 + 0.5 * rng.standard_normal(200), rng.integers(400, 600, 200)
        answers = iter(
            {"masked_lm_accuracy": 0.5, "masked_lm_loss": loss, "predictions": count}
            | {"next_sentence_accuracy": 0.5, "next_sentence_loss": 0.7}
            for loss, count in zip(losses_, predictions, strict=True)
        )
        means, errors = weighted_means(iter([{"input_ids": np.zeros((64, 4))}] * 200), lambda batch: next(answers))
        assert errors["next_sentence_loss"] == pytest.approx(0, abs=1e-12)
        return means["masked_lm_loss"], errors["masked_lm_loss"] or 0.0

    means, errors = np.array([sample() for _ in range(300)]).T
    assert means.std() == pytest.approx(errors.mean(), rel=0.15)


def test_the_table_has_a_row_per_model_and_corpus(rows: list[Evaluation]) -> None:
    """It is aligned Markdown; accuracies have intervals, and each note is below it once."""
    lines = format_pretraining(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[:6]]
    assert len({len(line) for line in lines[:6]}) == 1 and {len(row) for row in cells} == {7}
    assert cells[0] == ["", *METRICS, "examples", "masked tokens"]
    assert [row[0] for row in cells[2:]] == [
        f"{model}, {corpus}" for model in ("before", "after") for corpus in (rows[0].corpus, "held-out set")
    ]
    assert cells[2][1].startswith(f"{rows[0].masked_lm_accuracy:.4f} [{rows[0].masked_lm_accuracy_low:.4f}, ")
    assert lines[6] == "" and all(line.startswith("* ") for line in lines[7:])
    assert len(lines) == 7 + 1 + 2 + 1  # what was asked, a baseline per corpus, the overlap of the second
    assert repr(rows[0].commonest_token) in lines[8]


def test_a_table_of_models_with_different_vocabularies_says_so(rows: list[Evaluation]) -> None:
    """Their numbers cannot be compared."""
    other = replace(rows[1], vocab_size=400)
    assert "asked different questions" in format_pretraining([rows[0], other])
    assert "asked the same questions" in format_pretraining(rows)


def test_the_folder_that_clean_wrote_stands_for_its_two_splits(
    models: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    """The training set comes first, so the held-out set is compared with it; on request it is also evaluated without
    overlap.
    """
    lines = (corpus / "train.txt").read_text(encoding="utf-8").split("\n")
    folder = shutil.copytree(corpus, tmp_path / "corpus")
    with (folder / "heldout.txt").open("a", encoding="utf-8") as file:
        file.writelines(f"{line}{line[::-1]}\n\n" for line in lines[:40] if line)
    found = evaluate([models[1]], [folder], max_examples=8, unseen=True)
    assert [row.corpus for row in found] == [str(folder / f"{split}.txt") for split in ("train", "heldout", "heldout")]
    assert [row.unseen_only for row in found] == [False, False, True]
    assert [row.overlap is not None for row in found] == [False, True, False]
    assert "| after, held-out set, unseen danmaku only |" in format_pretraining(found)


def test_a_corpus_of_several_shards_is_one(models: tuple[Path, Path], danmaku: Path, tmp_path: Path) -> None:
    """`clean --shard` leaves such a corpus: the rows are those of the whole."""
    vocab = models[1] / "vocab.txt"
    clean([danmaku], tmp_path / "whole", vocab=vocab, heldout=0.2)
    for index in range(2):
        clean([danmaku], tmp_path / "shards", vocab=vocab, heldout=0.2, shard=Shard(index, 2))
    whole, shards = (evaluate([models[1]], [tmp_path / name], max_examples=8) for name in ("whole", "shards"))
    assert [Path(row.corpus).name for row in shards] == ["train.txt", "heldout.txt"]
    assert [replace(row, corpus="", overlap=None) for row in shards] == [
        replace(row, corpus="", overlap=None) for row in whole
    ]


def test_the_json_file_has_every_number(rows: list[Evaluation], tmp_path: Path) -> None:
    """It is a list of rows; missing folders are created, and no partial file remains."""
    path = tmp_path / "new/numbers.json"
    write_json(path, rows)
    assert json.loads(path.read_text(encoding="utf-8")) == [asdict(row) for row in rows]
    assert list(path.parent.iterdir()) == [path]


def test_lines_with_unknown_characters_are_left_out(
    rows: list[Evaluation], models: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    """A model is not asked to guess [UNK]."""
    text = (corpus / "heldout.txt").read_text(encoding="utf-8")
    path = tmp_path / "more.txt"
    path.write_text(text.replace("\n\n", "\n龘龘龘\n\n"), encoding="utf-8")
    (found,) = evaluate([models[1]], [path])
    assert (found.examples, found.masked_lm_loss) == (rows[3].examples, rows[3].masked_lm_loss)


def test_invalid_inputs_are_explained(models: tuple[Path, Path], tmp_path: Path) -> None:
    """They are a missing path, a text without danmaku, and a folder without a model."""
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        evaluate([models[0]], [tmp_path / "nowhere"])
    (tmp_path / "empty.txt").write_text("龘\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no danmaku that the vocabulary"):
        evaluate([models[0]], [tmp_path / "empty.txt"])
    with pytest.raises(ValueError, match="cannot read .*bert_config.json"):
        evaluate([tmp_path], [tmp_path / "empty.txt"])


def test_a_day_file_is_not_taken_for_text(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Both are called .txt; in a day file, danmaku begin with a user's number."""
    day = tmp_path / "2019-6-1.txt"
    day.write_text("TIME13:31ONLINE61\n90000001:晚安\n90000002:晚安\nV1\n", encoding="utf-8")
    opened = open_model_directory(models[1], variable_shapes)
    texts = clean_texts([day], models[1] / "vocab.txt", opened, tmp_path)
    assert texts.read_text(encoding="utf-8") == "晚安\n晚安\n\n"
