"""Pre-training: masked LM + next sentence, resumable at any moment by running the same command again.

Every step is a function of (weights, optimizer state, step number): the batch, the learning rate and the
dropout masks follow from the step, and TensorFlow is told to be deterministic. So a run that was killed and
started again passes through the same losses as one that was not.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from types import FrameType

import tensorflow as tf

from service.checkpoint import read_checkpoint
from service.model_directory import BertConfig, read_variables
from service.tokenizer import read_vocab
from training import checkpoint, model, records
from training.config import TrainConfig
from training.examples import ExampleSettings
from training.files import write_text
from training.log import TrainingLog
from training.losses import Features
from training.optimizer import Moments
from training.progress import Progress
from training.step import make_step


class MismatchedRun(ValueError):
    """The workdir holds a run with other settings or other examples."""


def train(config: TrainConfig, workdir: Path, examples: Path) -> Path:
    """Trains until `num_train_steps`, SIGTERM or SIGINT; returns the prefix of the newest checkpoint."""
    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(config.seed)
    bert_config = _prepare(config, workdir, examples)
    settings = ExampleSettings(**json.loads((examples / "examples.json").read_text(encoding="utf-8"))["settings"])
    variables, moments, step = _restore(config, bert_config, workdir)
    train_step = compile_step(config, bert_config, variables, moments)
    log = TrainingLog(workdir / "train_log.jsonl", step, config.log_steps)
    progress = Progress("train", config.num_train_steps, "steps", done=step)
    batches = records.training_batches(
        records.shard_paths(examples, "train"),
        settings,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=step,
    )
    with _StopSignal() as stop:
        while step < config.num_train_steps and not stop.received:
            batch = next(batches)
            metrics = {name: float(value) for name, value in train_step(batch, tf.constant(step)).items()}
            step += 1
            # A gradient may overflow where the loss does not; either way the weights are lost, and are not
            # saved.
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(metrics[name]):
                    raise FloatingPointError(f"the {name} is {metrics[name]} at step {step}: lower learning_rate")
            rate = log.add(step, metrics, tokens=config.batch_size * settings.max_seq_length)
            progress.update(step, f", {rate:,.0f} tokens/s, loss {metrics['loss']:.3f}")
            if step % config.save_checkpoints_steps == 0:
                _save(workdir, step, variables, moments)
        if checkpoint.latest_step(workdir) != step:  # the last step, or wherever a signal came
            _save(workdir, step, variables, moments)
    return workdir / f"{checkpoint.MODEL}-{step}"


def compile_step(
    config: TrainConfig, bert_config: BertConfig, variables: dict[str, tf.Variable], moments: Moments
) -> Callable[[Features, tf.Tensor], dict[str, tf.Tensor]]:
    """`make_step` over variables, which it moves."""
    pure = make_step(config, bert_config)

    @tf.function
    def train_step(features: Features, step: tf.Tensor) -> dict[str, tf.Tensor]:
        params, before = tf.nest.map_structure(tf.convert_to_tensor, (variables, moments))
        params, after, metrics = pure(params, before, features, step)
        tf.nest.map_structure(lambda variable, value: variable.assign(value), (variables, moments), (params, after))
        return metrics

    return train_step


def _prepare(config: TrainConfig, workdir: Path, examples: Path) -> BertConfig:
    """Makes the workdir self-contained, or checks that what it holds is this very run."""
    if not (examples / "examples.json").exists():
        raise FileNotFoundError(f"no examples.json in {examples}: make it with `danmaku-train examples`")
    known = {field.name for field in fields(BertConfig)} - {"vocab_size"}
    if unknown := sorted(config.model.keys() - known):
        raise ValueError(f"[model] has unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    vocab = read_vocab(examples / "vocab.txt")
    bert_config = BertConfig(**{**config.model, "vocab_size": len(vocab)})
    made = json.loads((examples / "examples.json").read_text(encoding="utf-8"))
    if made["settings"]["max_seq_length"] > bert_config.max_position_embeddings:
        raise ValueError(
            f"the examples have {made['settings']['max_seq_length']} tokens, "
            f"but max_position_embeddings is {bert_config.max_position_embeddings}"
        )
    run = json.dumps({"config": asdict(config), "examples": made}, indent=2) + "\n"
    path = workdir / "run.json"
    if checkpoint.latest_step(workdir) is None:  # nothing to lose: what a failed start wrote here does not count
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(workdir / "vocab.txt", "\n".join(vocab) + "\n")
        write_text(workdir / "bert_config.json", bert_config.to_json())
        write_text(path, run)
    elif not path.exists():
        raise MismatchedRun(f"{workdir} holds a checkpoint but no run.json, so it is not the workdir of a run")
    elif path.read_text(encoding="utf-8") != run or read_vocab(workdir / "vocab.txt") != vocab:
        raise MismatchedRun(
            f"{path} describes a run with another config or examples: restore them, or use a new workdir"
        )
    return bert_config


def _restore(
    config: TrainConfig, bert_config: BertConfig, workdir: Path
) -> tuple[dict[str, tf.Variable], Moments, int]:
    """Variables, moments and step: of the newest checkpoint, or of a new run, which is saved as step 0."""
    step = checkpoint.latest_step(workdir)
    shapes = model.variable_shapes(bert_config)
    if step is not None:
        values = read_variables(workdir / f"{checkpoint.MODEL}-{step}", shapes)
        state = read_checkpoint(workdir / f"{checkpoint.STATE}-{step}")
    elif config.init_checkpoint:
        values = read_variables(Path(config.init_checkpoint), shapes)
        state = {}
    else:
        values = model.initial_values(bert_config, config.seed)
        state = {}

    def moment(kind: str) -> dict[str, tf.Variable]:
        return {
            name: tf.Variable(state[f"{name}/{kind}"] if state else tf.zeros_like(value))
            for name, value in values.items()
        }

    variables = {name: tf.Variable(value) for name, value in values.items()}
    moments = Moments(moment("adam_m"), moment("adam_v"))
    if step is None:
        _save(workdir, 0, variables, moments)
    return variables, moments, step or 0


def _save(workdir: Path, step: int, variables: dict[str, tf.Variable], moments: Moments) -> None:
    state = {f"{name}/adam_m": value for name, value in moments.m.items()}
    state |= {f"{name}/adam_v": value for name, value in moments.v.items()}
    checkpoint.save(workdir, step, variables, state)


class _StopSignal:
    """Within the block, the first SIGTERM or SIGINT only sets `received`; a second one acts as usual."""

    def __enter__(self) -> _StopSignal:
        self.received = False
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
