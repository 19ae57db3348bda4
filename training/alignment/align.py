"""Trains on several tasks after pre-training: similar meanings get near vectors, and the model stays a language model.

The means of masked-LM states lie in a narrow cone, and near vectors there mean similar wording. Here each danmaku is
pulled towards the vector of its moments, that is, what others wrote within seconds of it (cooccurrence.py), and pushed
away from danmaku of other videos. Only frequent danmaku have enough moments; their character n-grams carry these on to
rare ones (ngrams.py). Moments say nothing about spelling, opposites or topics outside videos, so three more terms are
added: variants and opposites made by rule, a teacher's relations between general texts, and a term against crowding
(objectives.py). Masked LM and next sentence stay in the loss, on runs of consecutive danmaku, so the checkpoint is
still usable as a language model.

The result is a plain BERT checkpoint: the vector is the mean over tokens of `pooling_layer`, which is what
bert-as-service computes by default. The loop, the saved files and resuming work as in `train`.

Left out: more than one device. A danmaku is contrasted with all others of its batch, which replicas would divide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from service.model_directory import BertConfig, ModelDirectory, open_model_directory
from service.vectors import unit
from training.alignment import cooccurrence, ngrams, teacher, timed_lines
from training.alignment.batches import AlignmentBatches, Batch, padded
from training.alignment.centring import Weights, centre
from training.alignment.cooccurrence import Cooccurrence, CooccurrenceSettings
from training.alignment.general_texts import Texts, read_general
from training.alignment.objectives import contrast, crowding, mean_over_tokens, relations, spelling
from training.alignment.pretraining import PretrainingExamples
from training.alignment.relations import TaughtTexts
from training.alignment.timed_lines import TimedLines
from training.bert import loop, model
from training.bert.loop import Ran, RunSteps, State
from training.bert.losses import loss_sums
from training.bert.model import Params
from training.bert.optimizer import OPTIMIZERS, Moments, Tensors, clip, learning_rate
from training.config import AlignConfig
from training.corpus.files import find_sources
from training.examples.settings import ExampleSettings

NUMBERS = (
    *("loss", "gradient_norm", "moment_loss", "moment_accuracy", "pair_loss", "pair_accuracy"),
    *("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy"),
    *("spelling_loss", "spelling_accuracy", "relation_loss", "relation_error"),
    *("ngram_loss", "ngram_error", "crowding_loss", "stranger_cosine"),
)
CENTRING_TEXTS, TURNING_TEXTS = 2_000, 4_000
RELATION_ERROR_WEIGHT = 10.0  # a mean square of cosines is a few hundredths, a divergence a few tenths


def align(
    config: AlignConfig,
    workdir: Path,
    models: list[Path],
    recordings: list[Path],
    *,
    general: list[Path] | None = None,
    heldout: float = 0.05,
) -> Path:
    """Trains until `num_train_steps`, SIGTERM or SIGINT; returns the prefix of the newest checkpoint.

    Starts from the mean of the models' weights. Learns from the recordings that `clean` does not hold out, and from
    `general`, text files with one text per line. Raises MismatchedRun for a workdir of another run, and
    ModuleNotFoundError if a teacher is needed but not installed.
    """
    loop.be_deterministic(config.seed)
    config = config.on(fast_bfloat16=bool(tf.config.list_logical_devices("GPU")))
    opened = open_mean(models)
    if config.dims[-1] != opened.config.hidden_size:
        raise ValueError(
            f"invalid dims: the last is {config.dims[-1]}; expected hidden_size, {opened.config.hidden_size}"
        )
    if not 1 <= -config.pooling_layer <= opened.config.num_hidden_layers:
        raise ValueError(
            f"invalid pooling_layer: {config.pooling_layer}; expected -1, the last, to "
            f"-{opened.config.num_hidden_layers}, the first"
        )
    loop.prepare(
        workdir,
        config,
        _describe_inputs(opened, recordings, general or [], heldout),
        replace(opened.config, matryoshka_dimensions=config.dims),
        opened.tokenizer.vocab,
        derived=(timed_lines.FILE, cooccurrence.FILE),
    )
    batches = _batches(config, workdir, opened, recordings, general or [], heldout)
    shapes = model.variable_shapes(opened.config)
    initial = initial_values(config, opened, batches.teacher.lines)
    batches = replace(batches, turn=turn_of(config, opened, initial, batches.teacher))
    state = State.restore(workdir, shapes, lambda: initial)
    coming = batches.batches(state.step)
    try:
        return loop.run("align", config, workdir, state, compile_steps(config, opened.config, state, coming), NUMBERS)
    finally:
        coming.close()


def open_mean(models: list[Path]) -> ModelDirectory:
    """Returns the first of the models, with the mean of the weights of all (arXiv 2203.05482).

    Models of one lineage lie in one basin, so their mean has the skills of each: the first stage's knowledge of
    language and the second's of moments. Raises ValueError for models of different shapes or vocabularies.
    """
    opened = [open_model_directory(directory, model.variable_shapes) for directory in models]
    first = opened[0]
    for directory, other in zip(models, opened, strict=True):
        if not first.can_be_averaged_with(other):
            raise ValueError(
                f"invalid --model {directory}: its shape or vocabulary differs from {models[0]}; expected the same"
            )
    if len(opened) == 1:
        return first
    weights = {name: np.mean([one.weights[name] for one in opened], axis=0) for name in first.weights}
    digest = hashlib.sha256("".join(one.digest for one in opened).encode()).hexdigest()
    return replace(first, weights=weights, digest=digest)


def initial_values(config: AlignConfig, opened: ModelDirectory, lines: TimedLines) -> dict[str, np.ndarray]:
    """Returns the model's weights; if the config says so, shifted so that the mean vector of distinct danmaku is 0."""
    weights = dict(opened.weights)
    if not config.centred:
        return weights
    rng = np.random.default_rng(config.seed)
    some = rng.choice(len(lines.texts), min(CENTRING_TEXTS, len(lines.texts)), replace=False)
    middle = _vectors_of(weights, opened, lines, some, config.pooling_layer).mean(0)
    return centre(weights, opened.config, config.pooling_layer, middle)


def turn_of(config: AlignConfig, opened: ModelDirectory, weights: Weights, counted: Cooccurrence) -> np.ndarray | None:
    """Returns the rotation [d, d] that brings moments' vectors nearest to the model's own; None if not configured.

    Co-occurrence determines its vectors only up to a rotation. A model that has learned from other counts already has
    vectors of its danmaku, in its own coordinates, and would have to forget them first. (P. Schönemann, A generalized
    solution of the orthogonal Procrustes problem, Psychometrika 31 (1966) 1-10.)
    """
    if not config.turned:
        return None
    rows = np.argsort(-counted.lines.counts[counted.rows], kind="stable")[:TURNING_TEXTS]
    ours = unit(_vectors_of(weights, opened, counted.lines, counted.rows[rows], config.pooling_layer))
    left, _, right = np.linalg.svd(counted.vectors[rows].T.astype(np.float64) @ ours)
    return np.asarray(left @ right, np.float32)


def _vectors_of(
    weights: Weights, opened: ModelDirectory, lines: TimedLines, texts: np.ndarray, pooling_layer: int
) -> np.ndarray:
    """Returns the vectors of the texts of these numbers: [n, h]."""
    found = []
    for part in np.array_split(texts, -(-len(texts) // 250)):
        batch = padded([lines.ids(text) for text in part], opened.tokenizer, opened.config.max_position_embeddings)
        ids, mask = tf.constant(batch["input_ids"]), tf.constant(batch["input_mask"])
        hidden = model.encode(weights, opened.config, ids, mask, tf.zeros_like(ids))[pooling_layer]
        found.append(mean_over_tokens(hidden, mask).numpy())
    return np.concatenate(found)


def compile_steps(config: AlignConfig, bert_config: BertConfig, state: State, batches: Iterator[Batch]) -> RunSteps:
    """Returns the steps on the next batches, which update the variables. One graph serves texts of any length."""
    update = OPTIMIZERS[config.optimizer]
    variables, averages = state.variables, state.moments

    @tf.function(autograph=False, jit_compile=True)  # one pass over the weights instead of a dozen
    def moved(
        params: Tensors, before: Moments, found: Tensors, rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, Moments, tf.Tensor]:
        gradients, norm = clip(found)
        return (*update(params, before, gradients, rate, step, config.weight_decay_rate), norm)

    @tf.function(autograph=False)
    def step_of(features: Tensors, step: tf.Tensor) -> tf.Tensor:
        params, before = tf.nest.map_structure(tf.convert_to_tensor, (variables, averages))
        with tf.GradientTape() as tape:
            tape.watch(params)
            numbers = losses(params, config, bert_config, features, step)
        found = tape.gradient(numbers["loss"], params)
        known = {name: tf.convert_to_tensor(value) for name, value in found.items() if value is not None}
        rate = learning_rate(step + 1, config.learning_rate, config.num_warmup_steps, config.num_train_steps)
        of_known = Moments(*({name: values[name] for name in known} for values in before))
        touched = {name: params[name] for name in known}
        new, after, norm = moved(touched, of_known, known, rate, step)
        for name in known:
            variables[name].assign(new[name])
            averages.m[name].assign(after.m[name])
            averages.v[name].assign(after.v[name])
        numbers["gradient_norm"] = norm
        return tf.stack([numbers[name] for name in NUMBERS])

    graphs: list[tf.types.experimental.ConcreteFunction] = []

    def run_steps(first: int, count: int) -> Ran:
        rows, tokens = [], 0
        for step in range(first, first + count):
            batch = next(batches)
            features = {name: tf.constant(values) for name, values in batch.items()}
            if not graphs:
                specs = {
                    name: tf.TensorSpec([None] * values.ndim, features[name].dtype) for name, values in batch.items()
                }
                graphs.append(step_of.get_concrete_function(specs, tf.TensorSpec([], tf.int32)))
            rows.append(graphs[0](features, tf.constant(step)))
            tokens += sum(int(values.sum()) for name, values in batch.items() if name.endswith("input_mask"))
        return Ran(np.stack(rows), tokens)

    return run_steps


def losses(
    params: Params, config: AlignConfig, bert_config: BertConfig, features: Tensors, step: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Returns `loss` and its terms for one batch (batches.py has the shapes)."""
    params = model.with_kernels_as(params, tf.as_dtype(config.kernel_dtype))
    depth = bert_config.num_hidden_layers + 1 + config.pooling_layer
    shallow = replace(bert_config, num_hidden_layers=depth)
    seed = tf.stack([config.seed, step])

    def vectors_of(group: str, number: int) -> tf.Tensor:
        ids, mask = features[f"{group}_input_ids"], features[f"{group}_input_mask"]
        dropout_seed = tf.random.experimental.stateless_fold_in(seed, number)
        hidden = model.encode(params, shallow, ids, mask, tf.zeros_like(ids), dropout_seed=dropout_seed)[-1]
        return mean_over_tokens(hidden, mask)

    found = dict.fromkeys(NUMBERS[:1] + NUMBERS[2:], tf.constant(0.0))
    vectors = vectors_of("danmaku", 0)  # [b, d]
    is_wrong, is_pair = features["danmaku_is_wrong"], features["danmaku_is_pair"]
    itself = tf.eye(tf.shape(vectors)[0], dtype=tf.bool)
    contrasted = partial(contrast, dims=config.dims, temperature=config.temperature)
    found["moment_loss"], found["moment_accuracy"] = contrasted(vectors, features["danmaku_targets"], itself, is_wrong)
    found["pair_loss"], found["pair_accuracy"] = contrasted(vectors, vectors, is_pair, is_wrong)
    found["crowding_loss"], found["stranger_cosine"] = crowding(vectors, features["danmaku_is_stranger"])
    if "spelling_input_ids" in features:
        texts, variants, opposites = tf.split(vectors_of("spelling", 1), 3)
        found["spelling_loss"], found["spelling_accuracy"] = spelling(
            texts,
            variants,
            opposites,
            features["spelling_has_opposite"],
            features["spelling_is_same"],
            temperature=config.fine_temperature,
            margin=config.opposite_margin,
        )
    for number, (group, term) in enumerate((("relations", "relation"), ("ngrams", "ngram")), 2):
        if f"{group}_input_ids" in features:
            found[f"{term}_loss"], found[f"{term}_error"] = relations(
                vectors_of(group, number), features[f"{group}_taught"], temperature=config.fine_temperature
            )
    if "pretraining_input_ids" in features:
        found |= _pretraining(params, bert_config, features, tf.random.experimental.stateless_fold_in(seed, 4))
    found["loss"] = (
        config.moment_weight * found["moment_loss"]
        + config.pair_weight * found["pair_loss"]
        + config.crowding_weight * found["crowding_loss"]
        + config.spelling_weight * found["spelling_loss"]
        + config.relation_weight * (found["relation_loss"] + RELATION_ERROR_WEIGHT * found["relation_error"])
        + config.ngram_weight * (found["ngram_loss"] + RELATION_ERROR_WEIGHT * found["ngram_error"])
        + config.pretraining_weight * (found["masked_lm_loss"] + found["next_sentence_loss"])
    )
    return found


def _pretraining(params: Params, bert_config: BertConfig, features: Tensors, seed: tf.Tensor) -> Tensors:
    """Returns the losses and accuracies of BERT's two tasks on the batch's examples, as means."""
    ours = {name.removeprefix("pretraining_"): values for name, values in features.items() if "pretraining_" in name}
    sums = loss_sums(params, bert_config, ours, dropout_seed=seed)
    masked, asked = (tf.reduce_sum(ours[f"{task}_weights"]) for task in ("masked_lm", "next_sentence"))
    return {
        name: tf.math.divide_no_nan(total, masked if name.startswith("masked_lm") else asked)
        for name, total in sums.items()
    }


def _describe_inputs(
    opened: ModelDirectory, recordings: list[Path], general: list[Path], heldout: float
) -> dict[str, Any]:
    sources, *_ = find_sources(recordings)
    learned = {"recordings": len(sources), "bytes": sum(source.num_bytes for source in sources), "heldout": heldout}
    if general:
        learned["general"] = sum(map(len, read_general(general)))
    return {"model": opened.digest, **learned}


def _batches(
    config: AlignConfig,
    workdir: Path,
    opened: ModelDirectory,
    recordings: list[Path],
    general: list[Path],
    heldout: float,
) -> AlignmentBatches:
    """Reads, counts and asks the teacher once; stores the results in the workdir, so a resumed run starts at once."""
    lines_path, counted_path = workdir / timed_lines.FILE, workdir / cooccurrence.FILE
    tokenizer, hidden_size = opened.tokenizer, opened.config.hidden_size
    if not lines_path.exists():
        timed_lines.read_moments(recordings, tokenizer, split="train", heldout=heldout).save(lines_path)
    lines = TimedLines.load(lines_path)
    if not counted_path.exists():
        settings = CooccurrenceSettings(
            config.window_s, config.max_neighbours, config.min_count, dim=max(config.cooccurrence_dim, hidden_size)
        )
        cooccurrence.save(counted_path, cooccurrence.fit(lines, settings, seed=config.seed))
    counted = cooccurrence.load(counted_path, lines)
    texts = Texts.of(read_general(general), tokenizer) if general else None
    taught = {}
    if config.relation_weight:
        chosen = teacher.choose_texts(lines, general, config.taught_texts)
        known = teacher.teach(workdir / teacher.FOLDER, chosen, teacher.open_e5)
        taught["relations"] = TaughtTexts.of(known, tokenizer)
    if config.ngram_weight:
        numbers = ngrams.choose_danmaku(lines, config.taught_danmaku, config.seed)
        danmaku = [lines.texts[number] for number in numbers]
        known = teacher.teach(workdir / teacher.NGRAMS_FOLDER, danmaku, partial(ngrams.fit, counted))
        taught["ngrams"] = TaughtTexts.of(known, tokenizer, lines.counts[numbers] ** 0.25)
    example_settings = ExampleSettings(max_seq_length=opened.config.max_position_embeddings)
    examples = PretrainingExamples(lines, texts, tokenizer, example_settings, config.general_share, config.seed)
    targets = counted.shortened(hidden_size)
    return AlignmentBatches(config, targets, tokenizer, opened.config.max_position_embeddings, texts, taught, examples)
