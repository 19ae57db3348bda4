"""Measures the four pre-training numbers of models on corpora, over every example, with confidence intervals.

The examples are made with one frozen seed and always mask 15 %, whatever a model was trained with, so two models with
one vocabulary answer the very same questions. Models with different vocabularies do not: each is asked about the
danmaku it can spell, in its own tokens. The report also has the numbers of a model that knows only the commonest
answer; an accuracy means little without them.

Examples are made twice, once to count and once to run, so that only a shard is in memory however large the
corpus is.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from service.model_directory import ModelDirectory, open_model_directory
from service.recordings import open_recording
from training.bert.losses import METRICS, Features, losses
from training.bert.model import variable_shapes
from training.corpus.clean import Sieve, clean
from training.corpus.files import SPLITS, kept_counts, read_text, text_files, write_document
from training.corpus.overlap import Overlap, distinct_lines, overlap, write_unseen
from training.examples.records import evaluation_batches
from training.examples.sentence_pairs import make_shards
from training.examples.settings import ExampleSettings
from training.files import replacing
from training.progress import open_progress

SEED = 20190531  # never change this: numbers of different days and models must be comparable
LINES_PER_SHARD = 100_000
BATCH_SIZE = 64
MIN_CLUSTERS = 8  # batches needed to estimate a standard error
Z_95 = 1.959963984540054  # the normal quantile of 0.975


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one model on one corpus. Losses are in nats; `_low` and `_high` bound a 95 % interval."""

    model: str
    checkpoint: str
    corpus: str
    unseen_only: bool  # without the danmaku that are in the first corpus
    masked_lm_accuracy: float
    masked_lm_accuracy_low: float
    masked_lm_accuracy_high: float
    masked_lm_loss: float
    masked_lm_loss_standard_error: float | None  # None: too few examples
    next_sentence_accuracy: float
    next_sentence_accuracy_low: float
    next_sentence_accuracy_high: float
    next_sentence_loss: float
    next_sentence_loss_standard_error: float | None
    examples: int
    predictions: int  # masked tokens
    commonest_token: str
    commonest_token_share: float  # the masked_lm_accuracy of always predicting it
    commonest_next_sentence_label: int
    commonest_next_sentence_share: float
    vocab_size: int
    max_seq_length: int
    seed: int = SEED
    overlap: Overlap | None = None  # with the first corpus


@dataclass(frozen=True)
class Corpus:
    """The part of a corpus that one vocabulary can spell, as text."""

    name: str
    texts: Path
    overlap: Overlap | None = None
    unseen_only: bool = False


def evaluate(
    models: list[Path], corpora: list[Path], *, max_examples: int | None = None, unseen: bool = False
) -> list[Evaluation]:
    """Evaluates every model (a directory) on every corpus, in this order.

    A corpus is a folder of recorded danmaku, a cleaned .txt, or the folder that `clean` wrote, which stands for its
    two splits. Corpora after the first are compared with the first, danmaku by danmaku; with `unseen` they are also
    evaluated without the danmaku that are in it. `max_examples` takes the first of the shuffled examples, which are
    those of the first documents of the corpus.

    Raises ValueError for a `max_examples` below 1, and for a corpus of which a vocabulary can spell nothing.
    """
    if max_examples is not None and max_examples < 1:
        raise ValueError(f"invalid max_examples: {max_examples}; expected at least 1")
    tf.config.experimental.enable_op_determinism()
    rows = []
    spelled: dict[tuple[str, ...], list[Corpus]] = {}  # by vocabulary: models often share one
    with tempfile.TemporaryDirectory(prefix="danmaku-evaluate-") as work:
        for directory in models:
            opened = open_model_directory(directory, variable_shapes)
            vocabulary = tuple(opened.tokenizer.vocab)
            if vocabulary not in spelled:
                folder = Path(work, str(len(spelled)))
                spelled[vocabulary] = _prepare_corpora(corpora, directory / "vocab.txt", opened, folder, unseen)
            rows += [_evaluate(opened, str(directory), corpus, max_examples) for corpus in spelled[vocabulary]]
    return rows


def list_splits(corpus: Path) -> list[tuple[str, list[Path]]]:
    """Lists the splits of a folder that `clean` wrote, or any other corpus as one: a name and its files each."""
    if not any(corpus.glob("report*.json")):
        return [(str(corpus), [corpus])]
    whole = [split for split in SPLITS if kept_counts(corpus, split).get("lines")]
    return [(str(corpus / f"{split}.txt"), text_files(corpus, split)) for split in whole]


def _prepare_corpora(
    corpora: list[Path], vocab: Path, opened: ModelDirectory, folder: Path, unseen: bool
) -> list[Corpus]:
    found: list[Corpus] = []
    seen = None  # the danmaku of the first corpus
    for name, paths in [split for corpus in corpora for split in list_splits(corpus)]:
        work = folder / str(len(found))
        work.mkdir(parents=True)
        texts = clean_texts(paths, vocab, opened, work)
        found.append(Corpus(name, texts, None if seen is None else overlap(texts, seen, found[0].name)))
        if seen is None:
            seen = distinct_lines(texts)
        elif unseen and write_unseen(texts, seen, work / "unseen.txt"):
            found.append(Corpus(name, work / "unseen.txt", unseen_only=True))
    return found


def clean_texts(paths: list[Path], vocab: Path, opened: ModelDirectory, work: Path) -> Path:
    """Writes what the vocabulary can spell of a corpus to one file under `work`, and returns its path."""
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"invalid corpus: {path} does not exist; expected a folder or a file of danmaku")
        if path.is_dir() or open_recording(path).format != "text":
            clean(paths, work, vocab=vocab, heldout=0)
            return work / "train.txt"
    sieve = Sieve(opened.tokenizer)
    with replacing(work / "train.txt") as file:
        for document in read_text(paths):
            lines, _ = sieve.lines(document.lines)
            if lines:
                write_document(file, lines)
    return work / "train.txt"


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Computes the 95 % interval of a share observed over n independent trials.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927)
    209-212. The masked tokens of one example are not quite independent, so their interval is a little too narrow.
    """
    z2 = Z_95**2 / n
    centre = (share + z2 / 2) / (1 + z2)
    half = Z_95 / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def weighted_means(
    batches: Iterator[Features], run: Callable[[Features], dict[str, tf.Tensor]]
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Computes METRICS over all batches, and their standard errors.

    masked_lm_* is a mean over all masked tokens, next_sentence_* over all examples: a batch is weighted by how many
    of either it has, so the result does not depend on how examples are batched. The error is that of a mean of
    clusters, the batches (W. G. Cochran, Sampling Techniques, 3rd edition, section 2.11), so tokens of one example
    need not be independent; it is None where there are too few batches.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in METRICS}  # (number, weight) of every batch
    for features in batches:
        numbers = {name: float(value) for name, value in run(features).items()}
        for name in METRICS:
            weight = numbers["predictions"] if name.startswith("masked_lm") else len(features["input_ids"])
            found[name].append((numbers[name], weight))
    means = {name: sum(x * w for x, w in pairs) / sum(w for _, w in pairs) for name, pairs in found.items()}
    return means, {name: _standard_error(pairs, means[name]) for name, pairs in found.items()}


def _standard_error(pairs: list[tuple[float, float]], mean: float) -> float | None:
    if (n := len(pairs)) < MIN_CLUSTERS:
        return None
    squares = sum((w * (x - mean)) ** 2 for x, w in pairs)
    return math.sqrt(squares * n / (n - 1)) / sum(w for _, w in pairs)


def _evaluate(opened: ModelDirectory, name: str, corpus: Corpus, max_examples: int | None) -> Evaluation:
    settings = ExampleSettings(max_seq_length=min(64, opened.config.max_position_embeddings))
    tokens = np.zeros(opened.config.vocab_size, np.int64)
    labels = np.zeros(2, np.int64)
    for features in _make_shards(corpus.texts, opened, settings, max_examples):
        masked = features["masked_lm_ids"][features["masked_lm_weights"] > 0]
        tokens += np.bincount(masked, minlength=len(tokens))
        labels += np.bincount(features["next_sentence_labels"][:, 0], minlength=2)
    examples, predictions = int(labels.sum()), int(tokens.sum())
    if not examples:
        raise ValueError(
            f"invalid corpus: {corpus.name} has no danmaku that the vocabulary of {name} can spell; "
            "expected danmaku in its script"
        )

    run = _compile(opened, features)

    def batches() -> Iterator[Features]:
        description = f"evaluate {opened.name} on {Path(corpus.name).name}"
        with open_progress(description, examples, "examples") as progress:
            for features in _make_shards(corpus.texts, opened, settings, max_examples):
                for batch in evaluation_batches(features, BATCH_SIZE):
                    yield batch
                    progress.update(len(batch["input_ids"]))

    means, errors = weighted_means(batches(), run)
    masked_lm = wilson_interval(means["masked_lm_accuracy"], predictions)
    next_sentence = wilson_interval(means["next_sentence_accuracy"], examples)
    return Evaluation(
        model=name,
        checkpoint=opened.checkpoint,
        corpus=corpus.name,
        unseen_only=corpus.unseen_only,
        masked_lm_accuracy=means["masked_lm_accuracy"],
        masked_lm_accuracy_low=masked_lm[0],
        masked_lm_accuracy_high=masked_lm[1],
        masked_lm_loss=means["masked_lm_loss"],
        masked_lm_loss_standard_error=errors["masked_lm_loss"],
        next_sentence_accuracy=means["next_sentence_accuracy"],
        next_sentence_accuracy_low=next_sentence[0],
        next_sentence_accuracy_high=next_sentence[1],
        next_sentence_loss=means["next_sentence_loss"],
        next_sentence_loss_standard_error=errors["next_sentence_loss"],
        examples=examples,
        predictions=predictions,
        commonest_token=opened.tokenizer.vocab[int(tokens.argmax())],
        commonest_token_share=float(tokens.max() / predictions),
        commonest_next_sentence_label=int(labels.argmax()),
        commonest_next_sentence_share=float(labels.max() / examples),
        vocab_size=opened.config.vocab_size,
        max_seq_length=settings.max_seq_length,
        overlap=corpus.overlap,
    )


def _compile(opened: ModelDirectory, features: dict[str, np.ndarray]) -> Callable[[Features], dict[str, tf.Tensor]]:
    """Compiles the losses of a batch, for any number of rows shaped as in `features`."""
    params = {name: tf.constant(value) for name, value in opened.weights.items()}
    shapes = {name: tf.TensorSpec([None, values.shape[1]], values.dtype) for name, values in features.items()}
    return tf.function(lambda batch: losses(params, opened.config, batch)).get_concrete_function(shapes)


def _make_shards(
    texts: Path, opened: ModelDirectory, settings: ExampleSettings, max_examples: int | None
) -> Iterator[dict[str, np.ndarray]]:
    left = sys.maxsize if max_examples is None else max_examples
    for features in make_shards(texts, opened.tokenizer, settings, seed=SEED, lines_per_shard=LINES_PER_SHARD):
        yield {name: values[:left] for name, values in features.items()}
        left -= len(features["input_ids"])
        if left <= 0:
            return
