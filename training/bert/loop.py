"""The loop of every run: steps, a log, progress, checkpoints; it can be stopped at any moment and resumed.

`train` and `align` define the steps. Everything random in a step depends only on its number, so a run that was killed
and resumed has the same losses as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from service.checkpoint import read_checkpoint
from service.model_directory import BertConfig, Shapes, read_variables
from training.bert import checkpoint
from training.bert.log import TrainingLog
from training.bert.optimizer import Moments
from training.bert.signals import StopSignal
from training.config import ANY_TIME, RunConfig
from training.files import write_text
from training.progress import open_progress

Variables = dict[str, tf.Variable]


class MismatchedRun(ValueError):
    """The workdir belongs to a run with other settings or other examples."""


@dataclass(frozen=True)
class Ran:
    """The result of some steps."""

    rows: np.ndarray  # the metrics of each step [steps, metrics]
    tokens: int  # in all steps


# (number of the first step, number of steps) → their result
RunSteps = Callable[[int, int], Ran]


@dataclass
class State:
    """The weights and moments of a run, which its steps update, and the number of steps done."""

    variables: Variables
    moments: Moments
    step: int

    @classmethod
    def restore(cls, workdir: Path, shapes: Shapes, initial: Callable[[], dict[str, np.ndarray]]) -> State:
        """Restores the newest checkpoint, or starts a run from `initial()` and saves it as step 0."""
        step = checkpoint.latest_step(workdir)
        stored: dict[str, np.ndarray] = {}
        if step is None:
            values = initial()
        else:
            values = read_variables(workdir / f"{checkpoint.MODEL}-{step}", shapes)
            stored = read_checkpoint(workdir / f"{checkpoint.STATE}-{step}")

        def make_variables(kind: str) -> Variables:
            return {
                name: tf.Variable(stored.get(f"{name}/{kind}", np.zeros_like(value)), trainable=False)
                for name, value in values.items()
            }

        variables = {name: tf.Variable(value) for name, value in values.items()}
        state = cls(variables, Moments(make_variables("adam_m"), make_variables("adam_v")), step or 0)
        if step is None:
            state.save(workdir)
        return state

    def save(self, workdir: Path) -> None:
        moments = {f"{name}/adam_m": value for name, value in self.moments.m.items()}
        moments |= {f"{name}/adam_v": value for name, value in self.moments.v.items()}
        checkpoint.save(workdir, self.step, self.variables, moments)


def be_deterministic(seed: int) -> None:
    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(seed)
    # TensorFlow's graph optimizer gains nothing here and takes half of the time to start, and its memory pass
    # breaks large models in loops ("Resource … tmp_var … already exists", TensorFlow 2.21).
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def prepare(
    workdir: Path,
    config: RunConfig,
    inputs: dict[str, Any],
    bert_config: BertConfig,
    vocab: Sequence[str],
    derived: Sequence[str] = (),
) -> None:
    """Makes the workdir self-contained, or raises MismatchedRun if it belongs to another run than this one.

    `inputs` describes what the run learns from; `derived` names files that a failed start may have derived from other
    inputs.
    """
    description = json.loads(json.dumps({"config": asdict(config), "inputs": inputs}))  # as it will be read back
    path = workdir / "run.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if checkpoint.latest_step(workdir) is None:
        workdir.mkdir(parents=True, exist_ok=True)
        if old != description:
            for name in derived:
                (workdir / name).unlink(missing_ok=True)
        write_text(workdir / "vocab.txt", "\n".join(vocab) + "\n")
        write_text(workdir / "bert_config.json", bert_config.to_json())
        write_text(path, json.dumps(description, indent=2) + "\n")
    elif old is None:
        raise MismatchedRun(f"{workdir} holds a checkpoint but no run.json, so it is not the workdir of a run")
    elif different := describe_differences(old, description, "inputs"):
        raise MismatchedRun(f"{path} describes another run ({different}): restore its settings, or use a new workdir")


def run(
    what: str,
    config: RunConfig,
    workdir: Path,
    state: State,
    run_steps: RunSteps,
    numbers: Sequence[str],
    *,
    until: int | None = None,
) -> Path:
    """Runs until the step `until` (`num_train_steps`), SIGTERM or SIGINT; returns the prefix of the newest checkpoint.

    `numbers` names the metrics of a step, which include `loss` and `gradient_norm`.
    """
    end = config.num_train_steps if until is None else until
    log = TrainingLog(workdir / "train_log.jsonl", state.step, config.log_steps)
    progress = open_progress(what, end, "steps", done=state.step)
    with progress, StopSignal() as stop:
        while state.step < end and not stop.received:
            started = time.monotonic()
            ran = run_steps(state.step, _count_steps_to_run(config, state.step, end))
            seconds = (time.monotonic() - started) / len(ran.rows)
            for metrics in _check(ran.rows, numbers, state.step):
                state.step += 1
                rate = log.add(state.step, metrics, tokens=ran.tokens // len(ran.rows), seconds=seconds)
            progress.set_postfix_str(f"{rate:,.0f} tokens/s, loss {metrics['loss']:.3f}", refresh=False)
            progress.update(len(ran.rows))
            if state.step % config.save_checkpoints_steps == 0:
                state.save(workdir)
        if checkpoint.latest_step(workdir) != state.step:  # the last step, or the step at which a signal arrived
            state.save(workdir)
    return workdir / f"{checkpoint.MODEL}-{state.step}"


def describe_differences(old: dict[str, Any], new: dict[str, Any], inputs: str) -> str:
    """Returns what keeps a run from being resumed: the settings that differ, except those that may always change.

    `inputs` is the key in a run's description for what it learns from. Empty if nothing differs.
    """
    found = [
        f"{name} was {old['config'].get(name)}"
        for name, value in new["config"].items()
        if name not in ANY_TIME and old["config"].get(name) != value
    ]
    if old.get(inputs) != new[inputs]:
        found.append(f"the {inputs} are different")
    return ", ".join(found)


def _count_steps_to_run(config: RunConfig, step: int, end: int) -> int:
    """Returns `steps_per_loop`, or fewer up to the next checkpoint or the end."""
    to_checkpoint = config.save_checkpoints_steps - step % config.save_checkpoints_steps
    return min(config.steps_per_loop, to_checkpoint, end - step)


def _check(rows: np.ndarray, numbers: Sequence[str], step: int) -> Iterator[dict[str, float]]:
    """Returns the metrics of each step by name. Raises FloatingPointError, before returning any, if one is not finite.

    A gradient may overflow where the loss does not; either way the weights are lost and must not be saved.
    """
    named = [dict(zip(numbers, map(float, row), strict=True)) for row in rows]
    for number, metrics in enumerate(named, step + 1):
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name]):
                raise FloatingPointError(
                    f"invalid {name}: {metrics[name]} at step {number}; expected a finite number: lower learning_rate"
                )
    return iter(named)
