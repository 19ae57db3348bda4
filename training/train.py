"""Pre-training: masked LM + next sentence, resumable at any moment by running the same command again.

Every step is a function of (weights, optimizer state, step number): the batch, the learning rate and the dropout masks
follow from the step, and TensorFlow is told to be deterministic. So a run that was killed and started again passes
through the same losses as one that was not.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import tensorflow as tf

from service.tokenizer import read_vocab
from training import checkpoint, model, records
from training.config import TrainConfig
from training.examples import ExampleSettings
from training.files import write_text
from training.model import BertConfig, Params
from training.optimizer import AdamW, learning_rate
from training.progress import Progress

Features = dict[str, tf.Tensor]
METRICS = ("masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy", "next_sentence_loss")


class MismatchedRun(ValueError):
    """The workdir holds a run with other settings or other examples."""


def train(config: TrainConfig, workdir: Path, examples: Path) -> Path:
    """Trains until `num_train_steps`, or until SIGTERM or SIGINT; returns the prefix of the newest checkpoint."""
    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(config.seed)
    bert_config = _prepare(config, workdir, examples)
    settings = ExampleSettings(**json.loads((examples / "examples.json").read_text(encoding="utf-8"))["settings"])
    variables, optimizer, step = _restore(config, bert_config, workdir)
    train_step = _compile(config, bert_config, variables, optimizer)
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
            if not math.isfinite(metrics["loss"]):
                raise FloatingPointError(f"the loss is {metrics['loss']} at step {step}: lower learning_rate")
            rate = log.add(step, metrics, tokens=config.batch_size * settings.max_seq_length)
            progress.update(step, f", {rate:,.0f} tokens/s, loss {metrics['loss']:.3f}")
            if step % config.save_checkpoints_steps == 0 or step == config.num_train_steps or stop.received:
                _save(workdir, step, variables, optimizer)
    return workdir / f"{checkpoint.MODEL}-{step}"


def losses(params: Params, config: BertConfig, features: Features, **encode_options: Any) -> dict[str, tf.Tensor]:
    """The four numbers of one batch, and how many predictions they are means of.

    masked_lm_* are means over masked tokens, next_sentence_* over examples, as run_pretraining.py reports them.
    """
    hidden = model.encode(
        params, config, features["input_ids"], features["input_mask"], features["segment_ids"], **encode_options
    )[-1]
    logits = model.masked_lm_logits(params, hidden, features["masked_lm_positions"])  # [b, p, v]
    ids, weights = features["masked_lm_ids"], features["masked_lm_weights"]  # [b, p]
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)
    right = tf.cast(tf.argmax(logits, -1, tf.int32) == ids, tf.float32)
    predictions = tf.reduce_sum(weights)

    next_logits = model.next_sentence_logits(params, hidden)  # [b, 2]
    labels = features["next_sentence_labels"][:, 0]
    next_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, next_logits)
    next_right = tf.cast(tf.argmax(next_logits, -1, tf.int32) == labels, tf.float32)
    return {
        "masked_lm_accuracy": tf.reduce_sum(right * weights) / predictions,
        "masked_lm_loss": tf.reduce_sum(loss * weights) / predictions,
        "next_sentence_accuracy": tf.reduce_mean(next_right),
        "next_sentence_loss": tf.reduce_mean(next_loss),
        "predictions": predictions,
    }


def _compile(
    config: TrainConfig, bert_config: BertConfig, variables: dict[str, tf.Variable], optimizer: AdamW
) -> Callable[[Features, tf.Tensor], dict[str, tf.Tensor]]:
    @tf.function
    def train_step(features: Features, step: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            params = model.with_kernels_as(variables, tf.as_dtype(config.kernel_dtype))
            metrics = losses(params, bert_config, features, dropout_seed=tf.stack([config.seed, step]))
            loss = metrics["masked_lm_loss"] + metrics["next_sentence_loss"]
        gradients = {
            name: tf.convert_to_tensor(gradient) for name, gradient in tape.gradient(loss, variables).items()
        }
        # The first update, at step 0, has a rate of 1/num_warmup_steps of the peak: 0 would waste a batch.
        rate = learning_rate(step + 1, config.learning_rate, config.num_warmup_steps, config.num_train_steps)
        norm = optimizer.apply(gradients, rate)
        return {"loss": loss, "gradient_norm": norm, **{name: metrics[name] for name in METRICS}}

    return train_step


def _prepare(config: TrainConfig, workdir: Path, examples: Path) -> BertConfig:
    """Makes the workdir self-contained, or checks that what it holds is this very run."""
    if not (examples / "examples.json").exists():
        raise FileNotFoundError(f"no examples.json in {examples}: make it with `danmaku-train examples`")
    vocab = read_vocab(examples / "vocab.txt")
    bert_config = BertConfig(**{**config.model, "vocab_size": len(vocab)})
    made = json.loads((examples / "examples.json").read_text(encoding="utf-8"))
    run = json.dumps({"config": asdict(config), "examples": made}, indent=2) + "\n"
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "run.json"
    if not path.exists():
        write_text(workdir / "vocab.txt", "\n".join(vocab) + "\n")
        write_text(workdir / "bert_config.json", bert_config.to_json())
        write_text(path, run)
    elif path.read_text(encoding="utf-8") != run or read_vocab(workdir / "vocab.txt") != vocab:
        raise MismatchedRun(
            f"{path} describes a run with another config or other examples: use a new workdir, or restore them"
        )
    return bert_config


def _restore(
    config: TrainConfig, bert_config: BertConfig, workdir: Path
) -> tuple[dict[str, tf.Variable], AdamW, int]:
    """Variables, optimizer and step: of the newest checkpoint, or of a new run, which is saved as step 0."""
    step = checkpoint.latest_step(workdir)
    if step is not None:
        values = checkpoint.load(workdir / f"{checkpoint.MODEL}-{step}")
    else:
        values = model.initial_values(bert_config, config.seed)
        if config.init_checkpoint:
            values = _initial_checkpoint(Path(config.init_checkpoint), values)
    variables = {name: tf.Variable(values[name]) for name in model.variable_shapes(bert_config)}
    optimizer = AdamW(variables, config.weight_decay_rate)
    if step is None:
        _save(workdir, 0, variables, optimizer)
        return variables, optimizer, 0
    state = checkpoint.load(workdir / f"{checkpoint.STATE}-{step}")
    for name in variables:
        optimizer.m[name].assign(state[f"{name}/adam_m"])
        optimizer.v[name].assign(state[f"{name}/adam_v"])
    return variables, optimizer, step


def _initial_checkpoint(prefix: Path, expected: dict[str, Any]) -> dict[str, Any]:
    found = checkpoint.load(prefix)
    for name, value in expected.items():
        if name not in found:
            raise ValueError(f"{prefix} has no variable {name}")
        if found[name].shape != value.shape:
            raise ValueError(
                f"{prefix}: {name} is {list(found[name].shape)}, but the config wants {list(value.shape)}"
            )
    return {name: found[name] for name in expected}


def _save(workdir: Path, step: int, variables: dict[str, tf.Variable], optimizer: AdamW) -> None:
    state = {f"{name}/adam_m": value for name, value in optimizer.m.items()}
    state |= {f"{name}/adam_v": value for name, value in optimizer.v.items()}
    checkpoint.save(workdir, step, variables, state)


class TrainingLog:
    """train_log.jsonl: a row every `log_steps` steps, means over those steps.

    On resume, rows past the checkpoint are dropped: they will be written again.
    """

    def __init__(self, path: Path, step: int, log_steps: int) -> None:
        self._path, self._log_steps = path, log_steps
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        write_text(path, "".join(row for row in rows if json.loads(row)["step"] <= step))
        self._sums: dict[str, float] = {}
        self._steps, self._tokens, self._tokens_per_s = 0, 0, 0.0
        self._since = time.monotonic()

    def add(self, step: int, metrics: dict[str, float], *, tokens: int) -> float:
        """Takes one step's metrics; returns the rate of the last row, tokens/s."""
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in metrics.items()}
        self._steps += 1
        self._tokens += tokens
        elapsed = time.monotonic() - self._since
        if step % self._log_steps:
            return self._tokens_per_s or self._tokens / elapsed
        self._tokens_per_s = self._tokens / elapsed
        means = {name: total / self._steps for name, total in self._sums.items()}
        row = {"step": step, **means, "tokens_per_s": round(self._tokens_per_s)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._sums, self._steps, self._tokens, self._since = {}, 0, 0, time.monotonic()
        return self._tokens_per_s


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
