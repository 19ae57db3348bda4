"""Pre-training: masked LM + next sentence, resumable at any moment by running the same command again.

Every step is a function of (weights, moments, step number): the batch, the learning rate, the masks and the dropout
follow from the step, and TensorFlow is told to be deterministic. So a run that was killed and started again passes
through the same losses as one that was not.

`make_step` is the step; this file is what stands around it: the workdir, the variables, and the loop, which runs on
the device for `steps_per_loop` steps at a time and hands back the numbers of each.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from service.checkpoint import read_checkpoint
from service.model_directory import BertConfig, read_variables
from service.tokenizer import read_vocab
from training import checkpoint, model
from training.batches import TrainingSet, training_batches
from training.config import ANY_TIME, TrainConfig
from training.devices import has_fast_bfloat16, open_strategy, replicas_of
from training.files import location, write_text
from training.log import TrainingLog
from training.losses import METRICS
from training.optimizer import Moments
from training.progress import Progress
from training.signals import StopSignal
from training.step import make_step

NUMBERS = ("loss", "gradient_norm", *METRICS)  # of each step
Variables = dict[str, tf.Variable]
# (number of the first step, how many) → the NUMBERS of each [steps, numbers]
RunSteps = Callable[[int, int], np.ndarray]


class MismatchedRun(ValueError):
    """The workdir holds a run with other settings or other examples."""


def train(
    config: TrainConfig, workdir: Path, examples: Path, *, strategy: tf.distribute.Strategy | None = None
) -> Path:
    """Trains until `num_train_steps`, SIGTERM or SIGINT; returns the prefix of the newest checkpoint."""
    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(config.seed)
    # TensorFlow's graph optimizer finds nothing to gain here, takes half of the time to start, and its memory pass
    # breaks large models in loops ("Resource … tmp_var … already exists", TensorFlow 2.21).
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    strategy = strategy or open_strategy()
    config = config.on(fast_bfloat16=has_fast_bfloat16(strategy))
    data = TrainingSet.open(examples)
    bert_config = _prepare(config, workdir, data)
    with strategy.scope():
        variables, moments, step = _restore(config, bert_config, workdir)
    run_steps = compile_steps(config, bert_config, strategy, data, variables, moments, first_step=step)
    log = TrainingLog(workdir / "train_log.jsonl", step, config.log_steps)
    progress = Progress("train", config.num_train_steps, "steps", done=step)
    tokens = config.batch_size * data.settings.max_seq_length  # of a step
    try:
        with StopSignal() as stop:
            while step < config.num_train_steps and not stop.received:
                started = time.monotonic()
                rows = run_steps(step, _steps_to_run(config, step))
                seconds = (time.monotonic() - started) / len(rows)
                for metrics in _checked(rows, step):
                    step += 1
                    rate = log.add(step, metrics, tokens=tokens, seconds=seconds)
                progress.update(step, f", {rate:,.0f} tokens/s, loss {metrics['loss']:.3f}")
                if step % config.save_checkpoints_steps == 0:
                    _save(workdir, step, variables, moments)
            if checkpoint.latest_step(workdir) != step:  # the last step, or wherever a signal came
                _save(workdir, step, variables, moments)
    finally:
        # Masks are made by Python, on threads that read ahead: they must have ended before it does, or it hangs.
        del run_steps
        gc.collect()
    return workdir / f"{checkpoint.MODEL}-{step}"


def compile_steps(
    config: TrainConfig,
    bert_config: BertConfig,
    strategy: tf.distribute.Strategy,
    data: TrainingSet,
    variables: Variables,
    moments: Moments,
    *,
    first_step: int,
) -> RunSteps:
    """The loop over steps from `first_step` on, which moves the variables."""
    replicas = replicas_of(strategy)
    config.micro_batches(replicas.count)  # refuses what cannot be shared out before anything is built
    step_of = make_step(config, bert_config, replicas)

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        if context.num_input_pipelines > 1:
            raise ValueError("training on several machines at once is not supported; use the TPU of one machine")
        return training_batches(
            data,
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=first_step,
            masks=config.masks,
            parts=replicas.count,
        )

    iterator = iter(strategy.distribute_datasets_from_function(batches))

    @tf.autograph.experimental.do_not_convert  # nothing in it needs it, and tracing would take twice as long
    def on_replica(features: dict[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        params, before = tf.nest.map_structure(tf.convert_to_tensor, (variables, moments))
        params, after, metrics = step_of(params, before, features, step)
        tf.nest.map_structure(lambda variable, value: variable.assign(value), (variables, moments), (params, after))
        return tf.stack([metrics[name] for name in NUMBERS])

    @tf.function
    def loop(first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        rows = tf.TensorArray(tf.float32, size=count, element_shape=[len(NUMBERS)])
        for index in tf.range(count):
            row = strategy.run(on_replica, args=(next(iterator), first + index))
            rows = rows.write(index, strategy.experimental_local_results(row)[0])  # the same on every replica
        return rows.stack()

    return lambda first, count: np.asarray(loop(tf.constant(first), tf.constant(count)))


def _steps_to_run(config: TrainConfig, step: int) -> int:
    """As many as a loop has, but not past a checkpoint or the end."""
    to_checkpoint = config.save_checkpoints_steps - step % config.save_checkpoints_steps
    return min(config.steps_per_loop, to_checkpoint, config.num_train_steps - step)


def _checked(rows: np.ndarray, step: int) -> Iterator[dict[str, float]]:
    """The numbers of each step by name. Raises FloatingPointError before any is passed on if one went astray.

    A gradient may overflow where the loss does not; either way the weights are lost, and are not to be saved.
    """
    named = [dict(zip(NUMBERS, map(float, row), strict=True)) for row in rows]
    for number, metrics in enumerate(named, step + 1):
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name]):
                raise FloatingPointError(f"the {name} is {metrics[name]} at step {number}: lower learning_rate")
    return iter(named)


def _prepare(config: TrainConfig, workdir: Path, data: TrainingSet) -> BertConfig:
    """Makes the workdir self-contained, or checks that what it holds is this very run."""
    known = {field.name for field in fields(BertConfig)} - {"vocab_size"}
    if unknown := sorted(config.model.keys() - known):
        raise ValueError(f"[model] has unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    vocab = data.tokenizer.vocab
    bert_config = BertConfig(**{**config.model, "vocab_size": len(vocab)})
    if data.settings.max_seq_length > bert_config.max_position_embeddings:
        raise ValueError(
            f"the examples have {data.settings.max_seq_length} tokens, "
            f"but max_position_embeddings is {bert_config.max_position_embeddings}"
        )
    run = {"config": asdict(config), "examples": data.report}
    path = workdir / "run.json"
    if checkpoint.latest_step(workdir) is None:  # nothing to lose: what a failed start wrote here does not count
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(workdir / "vocab.txt", "\n".join(vocab) + "\n")
        write_text(workdir / "bert_config.json", bert_config.to_json())
        write_text(path, json.dumps(run, indent=2) + "\n")
    elif not path.exists():
        raise MismatchedRun(f"{workdir} holds a checkpoint but no run.json, so it is not the workdir of a run")
    elif different := _differences(json.loads(path.read_text(encoding="utf-8")), run):
        raise MismatchedRun(
            f"{path} describes a run with another config or examples ({different}): restore them, or use a new workdir"
        )
    elif read_vocab(workdir / "vocab.txt") != vocab:
        raise MismatchedRun(f"{workdir} is of a run with another config or examples (the vocabulary differs)")
    return bert_config


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What keeps a run from going on: the settings that were other ones, but for those that may change any time."""
    found = [
        f"{name} was {old['config'].get(name)}"
        for name, value in new["config"].items()
        if name not in ANY_TIME and old["config"].get(name) != value
    ]
    if old["examples"] != new["examples"]:
        found.append("the examples are others")
    return ", ".join(found)


def _restore(config: TrainConfig, bert_config: BertConfig, workdir: Path) -> tuple[Variables, Moments, int]:
    """Variables, moments and step: of the newest checkpoint, or of a new run, which is saved as step 0."""
    step = checkpoint.latest_step(workdir)
    shapes = model.variable_shapes(bert_config)
    state: dict[str, np.ndarray] = {}
    if step is not None:
        values = read_variables(workdir / f"{checkpoint.MODEL}-{step}", shapes)
        state = read_checkpoint(workdir / f"{checkpoint.STATE}-{step}")
    elif config.init_checkpoint:
        values = read_variables(location(config.init_checkpoint), shapes)
    else:
        values = model.initial_values(bert_config, config.seed)

    def moment(kind: str) -> Variables:
        return {
            name: tf.Variable(state.get(f"{name}/{kind}", np.zeros_like(value)), trainable=False)
            for name, value in values.items()
        }

    variables = {name: tf.Variable(value) for name, value in values.items()}
    moments = Moments(moment("adam_m"), moment("adam_v"))
    if step is None:
        _save(workdir, 0, variables, moments)
    return variables, moments, step or 0


def _save(workdir: Path, step: int, variables: Variables, moments: Moments) -> None:
    state = {f"{name}/adam_m": value for name, value in moments.m.items()}
    state |= {f"{name}/adam_v": value for name, value in moments.v.items()}
    checkpoint.save(workdir, step, variables, state)
