"""Fine-tunes a whole model on labelled texts, so that its vectors separate the labels: BERT's recipe.

A softmax layer reads the vector that the service would serve, and all weights below it learn (J. Devlin et al., BERT,
NAACL 2019, section 4.1). It starts as a logistic regression over the original vectors, because a random layer would
first distort them (A. Kumar et al., Fine-tuning can distort pretrained features, ICLR 2022). A fifth of the texts is
held out, and their loss is measured after every epoch. A run ends when an epoch does not lower it, and the best epoch
of several learning rates is the model. The loop, the saved files and resuming work as in pre-training. The softmax
layer is then dropped: a head on the vectors, which also reads n-grams, replaces it.

Left out: models in Hugging Face's layout, which define their own pooling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from service.encoders.inputs import Inputs
from service.encoders.options import EncoderOptions
from service.huggingface import Pooling
from service.model_directory import BertConfig, ModelDirectory, encoder_shapes, open_model_directory
from service.vectors import unit
from training.alignment.objectives import mean_over_tokens
from training.bert import loop, model
from training.bert.devices import compile_steps, has_fast_bfloat16, make_replicas, open_strategy
from training.bert.losses import Features
from training.bert.model import Params
from training.bert.step import make_step
from training.config import TrainConfig
from training.evaluation.models import embed
from training.files import write_text
from training.heads.linear import STRENGTH
from training.heads.texts import LabelledTexts

RATES = (2e-5, 1e-4, 5e-4)
EPOCHS = 4  # at most
BATCH_SIZE = 32
POOL = 16  # batches that are sorted by length together
WARMUP_SHARE = 0.1  # of the steps
DROPOUT = 0.1
HELD_SHARE = 0.2
WEIGHTS, BIAS = "output_weights", "output_bias"  # the names in google-research/bert, run_classifier.py
NUMBERS = ("loss", "gradient_norm", "accuracy")
LOSSES = "losses.json"  # of the held-out texts, after each epoch
JUDGED_AT_ONCE = 128


@dataclass(frozen=True)
class Tuned:
    """The best epoch of all runs."""

    workdir: Path  # of the run that it is from
    step: int
    rate: float
    held: np.ndarray  # [n], true for held-out texts
    tried: dict[str, list[float]]  # their loss after each epoch, by learning rate


@dataclass(frozen=True)
class Classification:
    """The task of a step: a softmax over the vector of a text."""

    config: BertConfig  # up to the highest layer that pooling reads
    layers: tuple[int, ...]  # that it reads; 0 is the embeddings

    metrics = ("loss", "accuracy")

    @property
    def names(self) -> Sequence[str]:
        return [*encoder_shapes(self.config), WEIGHTS, BIAS]

    def weigh(self, features: Features) -> tf.Tensor:
        return tf.cast(tf.shape(features["labels"])[0], tf.float32)

    def sums(self, params: Params, features: Features, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        scores = self.score(params, features, seed)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(features["labels"], scores)
        right = tf.cast(tf.argmax(scores, -1, tf.int32) == features["labels"], tf.float32)
        return {"loss": tf.reduce_sum(loss * features["weights"]), "accuracy": tf.reduce_sum(right)}

    def means(self, sums: dict[str, tf.Tensor], weight: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: value / weight for name, value in sums.items()}

    def score(self, params: Params, features: Features, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns scores [b, labels], with dropout if there is a seed."""
        ids, mask = features["input_ids"], features["input_mask"]
        hidden = model.encode(params, self.config, ids, mask, tf.zeros_like(ids), dropout_seed=seed)
        vectors = tf.concat([mean_over_tokens(hidden[layer], mask) for layer in self.layers], 1)
        vectors = tf.math.l2_normalize(vectors, 1)  # [b, d], as heads read them
        return tf.matmul(vectors, params[WEIGHTS], transpose_b=True) + params[BIAS]


@dataclass(frozen=True)
class Examples:
    """Labelled texts as the model reads them."""

    ids: np.ndarray  # int32 [n, t], padded
    lengths: np.ndarray  # int32 [n]
    labels: np.ndarray  # int32 [n]
    weights: np.ndarray  # float32 [n]

    def batches(self, order: np.ndarray, *, is_cut: bool) -> tf.data.Dataset:
        """Returns a batch for each row of numbers [batches, b]; with `is_cut`, as long as its longest text."""
        ids, lengths, labels, weights = map(tf.constant, (self.ids, self.lengths, self.labels, self.weights))

        def gather(numbers: tf.Tensor) -> Features:
            chosen = tf.gather(lengths, numbers)
            longest = tf.reduce_max(chosen) if is_cut else self.ids.shape[1]
            return {
                "input_ids": tf.gather(ids, numbers)[:, :longest],
                "input_mask": tf.sequence_mask(chosen, longest, tf.int32),
                "labels": tf.gather(labels, numbers),
                "weights": tf.gather(weights, numbers),
            }

        return tf.data.Dataset.from_tensor_slices(order).map(gather).prefetch(2)


@dataclass(frozen=True)
class Run:
    """The inputs that runs with different learning rates share."""

    opened: ModelDirectory
    weights: Mapping[str, np.ndarray]  # at the start
    task: Classification
    learned: Examples
    held: Examples
    inputs: Mapping[str, Any]  # what it learns from, for run.json
    strategy: tf.distribute.Strategy

    def config(self, rate: float, seed: int) -> TrainConfig:
        size = min(BATCH_SIZE, len(self.learned.labels))
        steps = -(-len(self.learned.labels) // size)  # of an epoch
        return TrainConfig(
            batch_size=size,
            learning_rate=rate,
            num_train_steps=EPOCHS * steps,
            num_warmup_steps=round(WARMUP_SHARE * EPOCHS * steps),
            optimizer="corrected_adamw",
            save_checkpoints_steps=steps,
            seed=seed,
        ).on(fast_bfloat16=has_fast_bfloat16(self.strategy))

    def learn(self, config: TrainConfig, workdir: Path) -> list[float] | None:
        """Trains until an epoch does not help; returns the loss after each epoch, or None if a signal stopped it."""
        bert_config = replace(self.opened.config, matryoshka_dimensions=())
        loop.prepare(workdir, config, dict(self.inputs), bert_config, self.opened.tokenizer.vocab)
        shapes = {name: values.shape for name, values in self.weights.items()}
        with self.strategy.scope():
            state = loop.State.restore(workdir, shapes, lambda: dict(self.weights))
        step = make_step(config, self.opened.config, make_replicas(self.strategy), self.task)
        order = self._order(config)
        is_cut = not isinstance(self.strategy, tf.distribute.TPUStrategy)  # whose shapes are static

        def make_batches(parts: int) -> tf.data.Dataset:
            return self.learned.batches(order[state.step :].reshape(-1, config.batch_size // parts), is_cut=is_cut)

        tokens = config.batch_size * int(self.learned.lengths.mean())
        run_steps = compile_steps(step, self.strategy, state, make_batches, NUMBERS, tokens=tokens)
        judge = self._compile_judge(state.variables)
        path = workdir / LOSSES
        losses: list[float] = json.loads(path.read_text("utf-8")) if path.exists() else []
        while len(losses) < EPOCHS and (len(losses) < 2 or losses[-1] < losses[-2]):
            end = (len(losses) + 1) * config.save_checkpoints_steps
            name = f"tune, {config.learning_rate:g}"
            loop.run(name, config, workdir, state, run_steps, NUMBERS, until=end)
            if state.step < end:
                return None
            losses.append(judge())
            write_text(path, json.dumps(losses))
        return losses

    def _order(self, config: TrainConfig) -> np.ndarray:
        """Returns which texts are in which batch [steps, b]; puts texts of similar length together to reduce padding.

        Every epoch has all texts. Batches span epochs; none is short.
        """
        rng = np.random.default_rng(config.seed)
        count, size = config.num_train_steps * config.batch_size, len(self.learned.labels)
        order = np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count]
        pools = np.split(order, range(POOL * config.batch_size, count, POOL * config.batch_size))
        by_length = [pool[np.argsort(self.learned.lengths[pool], kind="stable")] for pool in pools]
        batches = [rng.permutation(pool.reshape(-1, config.batch_size)) for pool in by_length]
        return np.concatenate(batches).astype(np.int32)

    def _compile_judge(self, variables: Params) -> Callable[[], float]:
        """Returns a function that computes the loss of the held-out texts with the current weights."""
        order = np.argsort(self.held.lengths, kind="stable")
        parts = np.array_split(order, -(-len(order) // JUDGED_AT_ONCE))

        @tf.function(autograph=False, reduce_retracing=True)
        def measure(features: Features) -> tf.Tensor:
            return self.task.sums(variables, features, seed=None)["loss"]

        def judge() -> float:
            batches = (next(iter(self.held.batches(part[None], is_cut=True))) for part in parts)
            return float(sum(float(measure(batch)) for batch in batches) / self.held.weights.sum())

        return judge


def tune(
    texts: LabelledTexts, directory: Path, workdir: Path, options: EncoderOptions, class_weight: str | None, seed: int
) -> Tuned | None:
    """Learns from four fifths of the texts; returns None if a signal stopped it. The same call resumes it.

    Raises MismatchedRun for a workdir of another run, ModelError for a model that cannot be tuned.
    """
    loop.be_deterministic(seed)
    opened = open_model_directory(directory, model.variable_shapes)
    if opened.pooling != Pooling():
        raise ValueError(f"invalid model: {directory} is in Hugging Face's layout; expected one that `export` wrote")
    complete = options.complete(opened, opened.name)
    layers = complete.layers(opened.config)
    shallow = replace(
        opened.config,
        num_hidden_layers=max(layers),
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )
    is_held = texts.mark(HELD_SHARE, "development")
    learned, held = texts.select(~is_held), texts.select(is_held)
    inputs = Inputs(opened.tokenizer, complete, complete.length(opened.config))
    first = fit_softmax(learned.labels, embed(directory, learned.texts, options), class_weight)
    rows = "".join(f"{label}\t{text}\n" for label, text in zip(texts.labels, texts.texts, strict=True))
    run = Run(
        opened,
        {**opened.weights, **first},
        Classification(shallow, layers),
        to_examples(learned, inputs, opened.tokenizer.pad_id, class_weight),
        to_examples(held, inputs, opened.tokenizer.pad_id, class_weight),
        {
            "model": opened.digest,
            "texts": sha256(rows.encode("utf-8", "surrogatepass")).hexdigest(),
            "layers": list(layers),
            "class_weight": class_weight,
        },
        open_strategy(),
    )
    tried: dict[float, list[float]] = {}
    for rate in RATES:
        losses = run.learn(run.config(rate, seed), workdir / f"{rate:g}")
        if losses is None:
            return None
        tried[rate] = losses
    best = min(tried, key=lambda rate: min(tried[rate]))
    step = (int(np.argmin(tried[best])) + 1) * run.config(best, seed).save_checkpoints_steps
    return Tuned(workdir / f"{best:g}", step, best, is_held, {f"{rate:g}": losses for rate, losses in tried.items()})


def fit_softmax(labels: np.ndarray, vectors: np.ndarray, class_weight: str | None) -> dict[str, np.ndarray]:
    """Returns the weights of a logistic regression over vectors [n, d] as variables of a softmax layer."""
    found = LogisticRegression(C=STRENGTH, class_weight=class_weight, max_iter=1000).fit(unit(vectors), labels)
    weights, bias = found.coef_, found.intercept_
    if len(weights) == 1:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return {WEIGHTS: weights.astype(np.float32), BIAS: bias.astype(np.float32)}


def to_examples(texts: LabelledTexts, inputs: Inputs, pad_id: int, class_weight: str | None) -> Examples:
    """Returns the tokens of texts, and their weights, 1 on average."""
    rows = [prepared.ids for prepared in inputs.prepare_texts(texts.texts)]
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.full((len(rows), lengths.max()), pad_id, np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    names = np.arange(len(texts.names))
    weights = compute_class_weight(class_weight, classes=names, y=texts.labels).astype(np.float32)[texts.labels]
    return Examples(ids, lengths, texts.labels.astype(np.int32), weights)
