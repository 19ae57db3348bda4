"""The four pre-training numbers of models on corpora, over every example, with the error that chance allows.

The examples are made with one frozen seed and always mask 15 %, whatever a model was trained with, so two
models with one vocabulary answer the very same questions. Models with different vocabularies do not: each is
asked about the danmaku it can spell, in its own tokens. Beside the numbers stand those of a model that knows
nothing but the commonest answer; an accuracy means little without them.

Examples are made twice, once to count and once to run: a shard at a time is in memory, however large the
corpus.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from service.model_directory import ModelDirectory, open_model_directory
from training.clean import Sieve, clean, write_document
from training.corpus import read_text
from training.examples import ExampleSettings, make_shards
from training.files import replacing, write_text
from training.losses import METRICS, Features, losses
from training.model import variable_shapes
from training.progress import Progress
from training.readers import plain_text, reader_of
from training.records import evaluation_batches

SEED = 20190531  # never changed: numbers of different days and models must be comparable
LINES_PER_SHARD = 100_000
BATCH_SIZE = 64
Z_95 = 1.959963984540054  # the normal quantile of 0.975


@dataclass(frozen=True)
class Evaluation:
    """One model on one corpus. Losses are in nats; `_low` and `_high` bound an accuracy's 95 % interval."""

    model: str
    checkpoint: str
    corpus: str
    masked_lm_accuracy: float
    masked_lm_accuracy_low: float
    masked_lm_accuracy_high: float
    masked_lm_loss: float
    next_sentence_accuracy: float
    next_sentence_accuracy_low: float
    next_sentence_accuracy_high: float
    next_sentence_loss: float
    examples: int
    predictions: int  # masked tokens
    commonest_token: str
    commonest_token_share: float  # the masked_lm_accuracy of always answering it
    commonest_next_sentence_label: int
    commonest_next_sentence_share: float
    vocab_size: int
    max_seq_length: int
    seed: int = SEED


def evaluate(models: list[Path], corpora: list[Path], *, max_examples: int | None = None) -> list[Evaluation]:
    """Every model (a directory) on every corpus (a folder of CSV files, or a cleaned .txt), in this order.

    `max_examples` takes the first of the shuffled examples: those of the documents that come first in the
    corpus.
    """
    if max_examples is not None and max_examples < 1:
        raise ValueError(f"max_examples is {max_examples}; it must be at least 1")
    tf.config.experimental.enable_op_determinism()
    rows = []
    for directory in models:
        opened = open_model_directory(directory, variable_shapes)
        for corpus in corpora:
            with tempfile.TemporaryDirectory(prefix="danmaku-evaluate-") as work:
                texts = cleaned(corpus, directory / "vocab.txt", opened, Path(work))
                rows.append(_evaluate(opened, str(directory), str(corpus), texts, max_examples))
    return rows


def cleaned(corpus: Path, vocab: Path, opened: ModelDirectory, work: Path) -> Path:
    """What the model's vocabulary can spell of the corpus, as text under `work`: all documents, no split."""
    if not corpus.exists():
        raise FileNotFoundError(f"{corpus} does not exist")
    if corpus.is_dir() or reader_of(corpus) is not plain_text.READER:
        clean([corpus], work, vocab=vocab, heldout=0)
        return work / "train.txt"
    sieve = Sieve(opened.tokenizer)
    with replacing(work / "train.txt") as file:
        for document in read_text(corpus):
            lines, _ = sieve.lines(document.lines)
            if lines:
                write_document(file, lines)
    return work / "train.txt"


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share observed over n independent trials.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927)
    209-212. The masked tokens of one example are not quite independent, so theirs is a little too narrow.
    """
    z2 = Z_95**2 / n
    centre = (share + z2 / 2) / (1 + z2)
    half = Z_95 / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def weighted_means(batches: Iterator[Features], run: Callable[[Features], dict[str, tf.Tensor]]) -> dict[str, float]:
    """METRICS over all batches: masked_lm_* a mean over all masked tokens, next_sentence_* over all examples.

    A batch weighs as much as it has of either, so the result does not depend on how examples fall into
    batches.
    """
    sums, weights = dict.fromkeys(METRICS, 0.0), dict.fromkeys(METRICS, 0.0)
    for features in batches:
        numbers = {name: float(value) for name, value in run(features).items()}
        for name in METRICS:
            weight = numbers["predictions"] if name.startswith("masked_lm") else len(features["input_ids"])
            sums[name] += numbers[name] * weight
            weights[name] += weight
    return {name: sums[name] / weights[name] for name in METRICS}


def table(rows: list[Evaluation]) -> str:
    """The rows as aligned text, accuracies with intervals; below them what knowing nothing would get."""
    lines: list[tuple[str, ...]] = [("model", "corpus", *METRICS, "examples", "predictions")]
    baselines = []
    for row in rows:
        values = asdict(row)
        numbers = [f"{values[name]:.4f}{_interval(values, name)}" for name in METRICS]
        lines.append((row.model, row.corpus, *numbers, f"{row.examples:,}", f"{row.predictions:,}"))
        baselines.append(
            f"{row.corpus}, {row.vocab_size:,} tokens of vocabulary: "
            f"always answering {row.commonest_token!r} has "
            f"a masked_lm_accuracy of {row.commonest_token_share:.4f}, "
            f"always {row.commonest_next_sentence_label} "
            f"a next_sentence_accuracy of {row.commonest_next_sentence_share:.4f}"
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, "", *dict.fromkeys(baselines)])


def write_json(path: Path, rows: list[Evaluation]) -> None:
    """The rows as a JSON list, one object with all numbers each; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=2) + "\n")


def _evaluate(opened: ModelDirectory, name: str, corpus: str, texts: Path, max_examples: int | None) -> Evaluation:
    settings = ExampleSettings(max_seq_length=min(64, opened.config.max_position_embeddings))
    tokens = np.zeros(opened.config.vocab_size, np.int64)
    labels = np.zeros(2, np.int64)
    for features in _shards(texts, opened, settings, max_examples):
        masked = features["masked_lm_ids"][features["masked_lm_weights"] > 0]
        tokens += np.bincount(masked, minlength=len(tokens))
        labels += np.bincount(features["next_sentence_labels"][:, 0], minlength=2)
    examples, predictions = int(labels.sum()), int(tokens.sum())
    if not examples:
        raise ValueError(f"{corpus} has no danmaku that the vocabulary of {name} can spell")

    progress = Progress(f"evaluate {opened.name} on {Path(corpus).name}", examples, "examples")
    run = _compile(opened, features)

    def batches() -> Iterator[Features]:
        done = 0
        for features in _shards(texts, opened, settings, max_examples):
            for batch in evaluation_batches(features, BATCH_SIZE):
                yield batch
                done += len(batch["input_ids"])
                progress.update(done)

    means = weighted_means(batches(), run)
    masked_lm = wilson_interval(means["masked_lm_accuracy"], predictions)
    next_sentence = wilson_interval(means["next_sentence_accuracy"], examples)
    return Evaluation(
        model=name,
        checkpoint=opened.checkpoint,
        corpus=corpus,
        masked_lm_accuracy=means["masked_lm_accuracy"],
        masked_lm_accuracy_low=masked_lm[0],
        masked_lm_accuracy_high=masked_lm[1],
        masked_lm_loss=means["masked_lm_loss"],
        next_sentence_accuracy=means["next_sentence_accuracy"],
        next_sentence_accuracy_low=next_sentence[0],
        next_sentence_accuracy_high=next_sentence[1],
        next_sentence_loss=means["next_sentence_loss"],
        examples=examples,
        predictions=predictions,
        commonest_token=opened.tokenizer.vocab[int(tokens.argmax())],
        commonest_token_share=float(tokens.max() / predictions),
        commonest_next_sentence_label=int(labels.argmax()),
        commonest_next_sentence_share=float(labels.max() / examples),
        vocab_size=opened.config.vocab_size,
        max_seq_length=settings.max_seq_length,
    )


def _compile(opened: ModelDirectory, features: dict[str, np.ndarray]) -> Callable[[Features], dict[str, tf.Tensor]]:
    """The losses of a batch as a graph, traced once for any number of rows shaped as in `features`."""
    params = {name: tf.constant(value) for name, value in opened.weights.items()}
    shapes = {name: tf.TensorSpec([None, values.shape[1]], values.dtype) for name, values in features.items()}
    return tf.function(lambda batch: losses(params, opened.config, batch)).get_concrete_function(shapes)


def _shards(
    texts: Path, opened: ModelDirectory, settings: ExampleSettings, max_examples: int | None
) -> Iterator[dict[str, np.ndarray]]:
    left = sys.maxsize if max_examples is None else max_examples
    for features in make_shards(texts, opened.tokenizer, settings, seed=SEED, lines_per_shard=LINES_PER_SHARD):
        yield {name: values[:left] for name, values in features.items()}
        left -= len(features["input_ids"])
        if left <= 0:
            return


def _interval(values: dict[str, float], name: str) -> str:
    if f"{name}_low" not in values:
        return ""
    return f" [{values[f'{name}_low']:.4f}, {values[f'{name}_high']:.4f}]"
