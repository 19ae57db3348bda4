"""Contrastive training after masked LM: danmaku that answer the same thing come near, whatever their words.

The mean of masked-LM states is crowded in a narrow cone, and near in it is what is worded alike. Here every danmaku is
drawn to the vector of its moments, what others wrote within seconds of it (`cooccurrence.py`), and away from
those of danmaku of other videos in the batch (InfoNCE, arXiv 1807.03748). A moment stands still while the encoder
learns, so only one text of a pair is encoded, and a moment is the mean of dozens of neighbours where a pair is one.
The first 64 and 128 dimensions are trained as vectors of their own (Matryoshka, arXiv 2205.13147), and a part of
each batch is read with masks, so that the checkpoint remains a masked LM.

What comes out is a plain BERT checkpoint: the vector is the mean over tokens of `pooling_layer`, which is what
bert-as-service computes unless told otherwise. The loop, what is kept and how it is resumed are those of `train`.

Left out: more than one device. A danmaku is told apart from the others of its batch, which replicas would share out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from service.model_directory import BertConfig, ModelDirectory, open_model_directory
from training.alignment import cooccurrence
from training.alignment import timed_lines as moments
from training.alignment.batches import AlignmentBatches, Batch
from training.alignment.cooccurrence import Cooccurrence, CooccurrenceSettings
from training.alignment.timed_lines import TimedLines
from training.bert import checkpoint, loop, model
from training.bert.loop import MismatchedRun, Ran, RunSteps, State
from training.bert.model import Params
from training.bert.optimizer import OPTIMIZERS, Moments, Tensors, clip, learning_rate
from training.config import AlignConfig
from training.corpus.files import find_sources
from training.files import write_text

NUMBERS = (
    *("loss", "gradient_norm", "moment_loss", "moment_accuracy", "pair_loss", "pair_accuracy"),
    *("masked_lm_loss", "masked_lm_accuracy"),
)


def align(
    config: AlignConfig, workdir: Path, model_directory: Path, recordings: list[Path], *, heldout: float = 0.05
) -> Path:
    """Trains until `num_train_steps`, SIGTERM or SIGINT; returns the prefix of the newest checkpoint.

    Learns from the recordings that `clean` does not hold out. Raises MismatchedRun for a workdir of another run.
    """
    loop.be_deterministic(config.seed)
    config = config.on(fast_bfloat16=bool(tf.config.list_logical_devices("GPU")))
    opened = open_model_directory(model_directory, model.variable_shapes)
    if config.dims[-1] != opened.config.hidden_size:
        raise ValueError(f"the last of dims is {config.dims[-1]}; it must be hidden_size, {opened.config.hidden_size}")
    if not 1 <= -config.pooling_layer <= opened.config.num_hidden_layers:
        raise ValueError(
            f"pooling_layer is {config.pooling_layer}; it must be from -1, the last, to "
            f"-{opened.config.num_hidden_layers}, the first"
        )
    _prepare(config, workdir, opened, recordings, heldout)
    teacher = _teacher(config, workdir, opened, recordings, heldout)
    batches = AlignmentBatches(config, teacher, opened.tokenizer, opened.config.max_position_embeddings)
    state = State.restore(workdir, model.variable_shapes(opened.config), lambda: dict(opened.weights))
    coming = batches.batches(state.step)
    try:
        return loop.run("align", config, workdir, state, compile_steps(config, opened.config, state, coming), NUMBERS)
    finally:
        coming.close()


def compile_steps(config: AlignConfig, bert_config: BertConfig, state: State, batches: Iterator[Batch]) -> RunSteps:
    """Steps on the batches to come, which move the variables. A step is compiled for each length of danmaku."""
    update = OPTIMIZERS[config.optimizer]
    variables, averages = state.variables, state.moments

    @tf.function(autograph=False)
    def step_of(features: Tensors, step: tf.Tensor) -> tf.Tensor:
        params, before = tf.nest.map_structure(tf.convert_to_tensor, (variables, averages))
        with tf.GradientTape() as tape:
            tape.watch(params)
            numbers = losses(params, config, bert_config, features, step)
        found = tape.gradient(numbers["loss"], params)
        known = {name: tf.convert_to_tensor(value) for name, value in found.items() if value is not None}
        gradients, norm = clip(known)
        rate = learning_rate(step + 1, config.learning_rate, config.num_warmup_steps, config.num_train_steps)
        of_known = Moments(*({name: values[name] for name in known} for values in before))
        touched = {name: params[name] for name in known}
        new, after = update(touched, of_known, gradients, rate, step, config.weight_decay_rate)
        for name in known:
            variables[name].assign(new[name])
            averages.m[name].assign(after.m[name])
            averages.v[name].assign(after.v[name])
        numbers["gradient_norm"] = norm
        return tf.stack([numbers[name] for name in NUMBERS])

    compiled: dict[int, Callable[..., tf.Tensor]] = {}

    def run_steps(first: int, count: int) -> Ran:
        rows, tokens = [], 0
        for step in range(first, first + count):
            batch = next(batches)
            features = {name: tf.constant(values) for name, values in batch.items()}
            length = features["input_ids"].shape[1]
            if length not in compiled:
                compiled[length] = step_of.get_concrete_function(features, tf.TensorSpec([], tf.int32))
            rows.append(compiled[length](features, tf.constant(step)))
            tokens += int(batch["input_mask"].sum())
        return Ran(np.stack(rows), tokens)

    return run_steps


def losses(
    params: Params, config: AlignConfig, bert_config: BertConfig, features: Tensors, step: tf.Tensor
) -> dict[str, tf.Tensor]:
    """`loss` and what it is made of, of one batch (training/alignment/batches.py has the shapes)."""
    params = model.with_kernels_as(params, tf.as_dtype(config.kernel_dtype))
    seed = tf.stack([config.seed, step])
    depth = bert_config.num_hidden_layers + 1 + config.pooling_layer
    ids, mask = features["input_ids"], features["input_mask"]
    outputs = model.encode(
        params,
        replace(bert_config, num_hidden_layers=depth),
        ids,
        mask,
        tf.zeros_like(ids),
        dropout_seed=seed,
    )
    vectors = mean_over_tokens(outputs[-1], mask)  # [b, d]
    found = moment_loss(vectors, features["targets"], features["is_wrong"], config)
    found |= pair_loss(vectors, features["is_pair"], features["is_wrong"], config)
    found["masked_lm_loss"] = found["masked_lm_accuracy"] = tf.constant(0.0)
    if "masked_lm_ids" in features:
        found |= _masked_lm(params, bert_config, features, outputs[-1], depth)
    weighted = config.pair_weight * found["pair_loss"] + config.masked_lm_weight * found["masked_lm_loss"]
    found["loss"] = found["moment_loss"] + weighted
    return found


def mean_over_tokens(hidden: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """bert-as-service's REDUCE_MEAN: over all tokens, [CLS] and [SEP] too. [b, t, h], [b, t] → [b, h]."""
    weights = tf.cast(mask, hidden.dtype)[:, :, None]
    return tf.reduce_sum(hidden * weights, 1) / tf.reduce_sum(weights, 1)


def moment_loss(
    vectors: tf.Tensor, targets: tf.Tensor, is_wrong: tf.Tensor, config: AlignConfig
) -> dict[str, tf.Tensor]:
    """InfoNCE of vectors [b, d] with targets [b, d], each its own against the wrong ones [b, b]."""
    return _contrast("moment", vectors, targets, tf.eye(vectors.shape[0], dtype=tf.bool), is_wrong, config)


def pair_loss(vectors: tf.Tensor, is_pair: tf.Tensor, is_wrong: tf.Tensor, config: AlignConfig) -> dict[str, tf.Tensor]:
    """The same of vectors with each other: those of one moment against the wrong ones."""
    return _contrast("pair", vectors, vectors, is_pair, is_wrong, config)


def _contrast(
    name: str, ours: tf.Tensor, theirs: tf.Tensor, is_right: tf.Tensor, is_wrong: tf.Tensor, config: AlignConfig
) -> dict[str, tf.Tensor]:
    """Mean over the prefixes in `dims`, and over the rows that have a right one; of several, their mean.

    And how often a right one is the nearest.
    """
    right, wrong = tf.cast(is_right, tf.float32), tf.cast(is_wrong, tf.float32)
    counts = tf.reduce_sum(right, 1)  # [b]
    rows = tf.cast(counts > 0, tf.float32)
    num_rows = tf.maximum(tf.reduce_sum(rows), 1.0)
    total = tf.constant(0.0)
    for dim in config.dims:
        ours_unit, theirs_unit = (tf.math.l2_normalize(side[:, :dim], -1) for side in (ours, theirs))
        scores = tf.matmul(ours_unit, theirs_unit, transpose_b=True) / config.temperature  # [b, b]
        against = tf.reduce_logsumexp(scores + (1.0 - wrong) * model.MASKED_SCORE, 1, keepdims=True)
        loss = tf.nn.softplus(against - scores) * right  # -log of exp(right) / (exp(right) + sum of exp(wrong))
        total += tf.reduce_sum(tf.math.divide_no_nan(tf.reduce_sum(loss, 1), counts)) / num_rows
    nearest_right, nearest_wrong = (
        tf.reduce_max(scores + (1.0 - those) * model.MASKED_SCORE, 1) for those in (right, wrong)
    )
    is_first = tf.cast(nearest_right > nearest_wrong, tf.float32) * rows
    return {f"{name}_loss": total / len(config.dims), f"{name}_accuracy": tf.reduce_sum(is_first) / num_rows}


def _masked_lm(
    params: Params, bert_config: BertConfig, features: Tensors, hidden: tf.Tensor, depth: int
) -> dict[str, tf.Tensor]:
    """Returns loss and accuracy of the danmaku with masks, the first ones; `hidden` is the output of `depth` layers."""
    count = features["masked_lm_ids"].shape[0]
    hidden = model.encode_on(params, bert_config, hidden[:count], features["input_mask"][:count], depth)
    logits = model.masked_lm_logits(params, hidden, features["masked_lm_positions"])
    weights, wanted = features["masked_lm_weights"], features["masked_lm_ids"]
    total = tf.reduce_sum(weights)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
    right = tf.cast(tf.argmax(logits, -1, tf.int32) == wanted, tf.float32)
    return {
        "masked_lm_loss": tf.reduce_sum(loss * weights) / total,
        "masked_lm_accuracy": tf.reduce_sum(right * weights) / total,
    }


def _prepare(
    config: AlignConfig, workdir: Path, opened: ModelDirectory, recordings: list[Path], heldout: float
) -> None:
    """Makes the workdir self-contained, or checks that what it holds is this very run."""
    sources, *_ = find_sources(recordings)
    learned = {"recordings": len(sources), "bytes": sum(source.num_bytes for source in sources), "heldout": heldout}
    description = {"config": asdict(config), "inputs": {"model": opened.digest, **learned}}
    description = json.loads(json.dumps(description))  # as it will be read: tuples are lists
    path = workdir / "run.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if checkpoint.latest_step(workdir) is None:
        workdir.mkdir(parents=True, exist_ok=True)
        if old != description:  # what a start that failed has read and counted may be of other recordings
            for name in (moments.FILE, cooccurrence.FILE):
                (workdir / name).unlink(missing_ok=True)
        write_text(workdir / "vocab.txt", "\n".join(opened.tokenizer.vocab) + "\n")
        write_text(workdir / "bert_config.json", opened.config.to_json())
        write_text(path, json.dumps(description, indent=2) + "\n")
    elif old is None:
        raise MismatchedRun(f"{workdir} holds a checkpoint but no run.json, so it is not the workdir of a run")
    elif different := loop.describe_differences(old, description, "inputs"):
        raise MismatchedRun(f"{path} describes another run ({different}): restore what it had, or use a new workdir")


def _teacher(
    config: AlignConfig, workdir: Path, opened: ModelDirectory, recordings: list[Path], heldout: float
) -> Cooccurrence:
    """Reads and fits once, and stores the result in the workdir, so a resumed run starts at once."""
    lines_path, path = workdir / moments.FILE, workdir / cooccurrence.FILE
    if not lines_path.exists():
        moments.read_moments(recordings, opened.tokenizer, split="train", heldout=heldout).save(lines_path)
    lines = TimedLines.load(lines_path)
    if not path.exists():
        settings = CooccurrenceSettings(
            config.window_s, config.max_neighbours, config.min_count, dim=opened.config.hidden_size
        )
        cooccurrence.save(path, cooccurrence.fit(lines, settings, seed=config.seed))
    return cooccurrence.load(path, lines)
