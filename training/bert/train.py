"""Pre-training: masked LM + next sentence, resumable at any moment by running the same command again.

Every step is a function of (weights, moments, step number): the batch, the learning rate, the masks and the dropout
follow from the step number, and TensorFlow is set to be deterministic. So a run that was killed and resumed has the
same losses as one that was not.

`make_step` makes the step. This file has the rest: the workdir, the variables, and the loop on the device, which runs
`steps_per_loop` steps at a time and returns the metrics of each.
"""

from __future__ import annotations

import gc
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from service.huggingface import is_huggingface, read_weights
from service.model_directory import BertConfig, find_checkpoint, open_model_directory, read_variables
from service.tokenizer import read_vocab
from training.bert import checkpoint, loop, model
from training.bert.devices import compile_steps, has_fast_bfloat16, make_replicas, open_strategy
from training.bert.loop import MismatchedRun, State
from training.bert.losses import METRICS
from training.bert.step import make_step
from training.config import TrainConfig
from training.examples.batches import TrainingSet, training_batches
from training.files import parse_location, write_text

BY_TOKEN = {"bert/embeddings/word_embeddings", "cls/predictions/output_bias"}
NUMBERS = ("loss", "gradient_norm", *METRICS)  # of each step


def train(
    config: TrainConfig, workdir: Path, examples: Path, *, strategy: tf.distribute.Strategy | None = None
) -> Path:
    """Trains until `num_train_steps`, SIGTERM or SIGINT; returns the prefix of the newest checkpoint."""
    loop.be_deterministic(config.seed)
    strategy = strategy or open_strategy()
    config = config.on(fast_bfloat16=has_fast_bfloat16(strategy))
    data = TrainingSet.open(examples)
    bert_config = _prepare(config, workdir, data)
    with strategy.scope():
        shapes = model.variable_shapes(bert_config)
        state = State.restore(workdir, shapes, lambda: _make_initial_values(config, bert_config, data.tokenizer.vocab))
    step_on_replica = make_step(config, bert_config, make_replicas(strategy))

    def make_batches(parts: int) -> tf.data.Dataset:
        return training_batches(
            data,
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=state.step,
            masks=config.masks,
            parts=parts,
        )

    tokens = config.batch_size * data.settings.max_seq_length
    run_steps = compile_steps(step_on_replica, strategy, state, make_batches, NUMBERS, tokens=tokens)
    try:
        return loop.run("train", config, workdir, state, run_steps, NUMBERS)
    finally:
        # The threads that read ahead run Python to make the masks. They must end before the interpreter does, or it
        # hangs.
        del run_steps
        gc.collect()


def _prepare(config: TrainConfig, workdir: Path, data: TrainingSet) -> BertConfig:
    """Makes the workdir self-contained, or checks that it belongs to this run."""
    known = {field.name for field in fields(BertConfig)} - {"vocab_size"}
    if unknown := sorted(config.model.keys() - known):
        raise ValueError(f"unknown setting {', '.join(unknown)} in [model]; expected {', '.join(sorted(known))}")
    vocab = data.tokenizer.vocab
    bert_config = BertConfig(**{**config.model, "vocab_size": len(vocab)})
    if data.settings.max_seq_length > bert_config.max_position_embeddings:
        raise ValueError(
            f"invalid max_position_embeddings: {bert_config.max_position_embeddings}; expected at least "
            f"{data.settings.max_seq_length}, the length of the examples"
        )
    if config.frozen_layers > bert_config.num_hidden_layers:
        raise ValueError(
            f"invalid frozen_layers: {config.frozen_layers}; expected at most {bert_config.num_hidden_layers}, the "
            "layers of the model"
        )
    run = {"config": asdict(config), "examples": data.report}
    path = workdir / "run.json"
    if checkpoint.latest_step(workdir) is None:  # only files of a failed start can be lost
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(workdir / "vocab.txt", "\n".join(vocab) + "\n")
        write_text(workdir / "bert_config.json", bert_config.to_json())
        write_text(path, json.dumps(run, indent=2) + "\n")
    elif not path.exists():
        raise MismatchedRun(
            f"invalid workdir: {workdir} has a checkpoint but no run.json; expected the workdir of a run"
        )
    elif different := loop.describe_differences(old := json.loads(path.read_text(encoding="utf-8")), run, "examples"):
        advice = ""
        if config.num_train_steps != (steps := old["config"]["num_train_steps"]):
            advice = (
                f"; the learning rate is 0 after step {steps}, so a run cannot be lengthened: to train longer, start "
                f"another one with --set init_checkpoint={workdir / checkpoint.MODEL}-{checkpoint.latest_step(workdir)}"
            )
        raise MismatchedRun(
            f"{path} describes a run with another config or examples ({different}): restore them, or use a new workdir"
            f"{advice}"
        )
    elif read_vocab(workdir / "vocab.txt") != vocab:
        raise MismatchedRun(f"{workdir} belongs to a run with another config or examples (the vocabulary differs)")
    return bert_config


def _make_initial_values(config: TrainConfig, bert_config: BertConfig, vocab: list[str]) -> dict[str, np.ndarray]:
    random = model.initial_values(bert_config, config.seed)
    if not config.init_checkpoint:
        return random
    start = parse_location(config.init_checkpoint)
    if start.is_dir() and isinstance(start, Path) and is_huggingface(start):
        return random | _read_huggingface(start, bert_config, vocab)
    return read_variables(find_checkpoint(start) if start.is_dir() else start, model.variable_shapes(bert_config))


def _read_huggingface(start: Path, bert_config: BertConfig, vocab: list[str]) -> dict[str, np.ndarray]:
    """Reads the weights of a model in Hugging Face's layout, which often lacks the heads, and sometimes the pooler."""
    opened = open_model_directory(start)
    for name in ("num_attention_heads", "hidden_act", "layer_norm_eps"):  # the other fields follow from the shapes
        if (theirs := getattr(opened.config, name)) != (ours := getattr(bert_config, name)):
            raise ValueError(f"invalid {name} in [model]: {ours}; expected {theirs}, as in {start}")
    if opened.tokenizer.vocab != vocab:
        raise ValueError(f"invalid init_checkpoint: {start} has another vocabulary; expected that of the examples")
    shapes = model.variable_shapes(replace(bert_config, vocab_size=opened.config.vocab_size))
    weights = read_weights(start, shapes, optional=("bert/pooler/", "cls/"))
    for name in BY_TOKEN & weights.keys():  # without the rows that only pad a table to a round size
        weights[name] = weights[name][: len(vocab)]
    return weights
