"""Training learns, and being killed, stopped and resumed does not change the losses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from service.checkpoint import read_checkpoint
from service.model_directory import BertConfig, find_checkpoint, open_model_directory
from training.arguments import STOPPED
from training.bert import checkpoint, model
from training.bert.export import export
from training.bert.log import TrainingLog
from training.bert.train import MismatchedRun, train
from training.config import read_config
from training.examples.records import write_examples
from training.examples.settings import ExampleSettings
from training.files import parse_location

REPOSITORY = Path(__file__).parents[3]
STEPS = 300  # enough for a loaded machine to be caught in the middle
LONG = f"""
batch_size = 8
micro_batch_size = 4
masks = "dynamic"
learning_rate = 1e-3
num_warmup_steps = 4
num_train_steps = {STEPS}
save_checkpoints_steps = 25
steps_per_loop = 7
log_steps = 1
[model]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 32
"""


def rows_of(workdir: Path) -> list[dict[str, Any]]:
    """Returns the log without the only number that varies."""
    rows = [json.loads(row) for row in (workdir / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_s"} for row in rows]


def start(config: Path, workdir: Path, examples: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "training.cli", "train", str(config)]
    command += ["--workdir", str(workdir), "--examples", str(examples)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_rows(process: subprocess.Popen[bytes], workdir: Path, count: int) -> None:
    log = workdir / "train_log.jsonl"
    deadline = time.monotonic() + 250
    while not log.exists() or log.read_bytes().count(b"\n") < count:
        assert process.poll() is None, f"the run ended before step {count}"
        assert time.monotonic() < deadline, f"the run did not reach step {count}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def interrupted(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that is killed with SIGKILL, restarted, stopped with SIGTERM, and restarted here until its end."""
    folder = tmp_path_factory.mktemp("interrupted")
    config, workdir = folder / "long.toml", folder / "run"
    config.write_text(LONG, encoding="utf-8")
    found: dict[str, Any] = {"config": config, "workdir": workdir}

    killed = start(config, workdir, examples)
    wait_for_rows(killed, workdir, 40)
    killed.send_signal(signal.SIGKILL)
    found["killed"] = killed.wait(250)
    found["step after SIGKILL"] = checkpoint.latest_step(workdir)
    found["rows after SIGKILL"] = len(rows_of(workdir))

    stopped = start(config, workdir, examples)
    wait_for_rows(stopped, workdir, found["rows after SIGKILL"] + 20)
    for _ in range(3):  # a group of processes is often told more than once
        stopped.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    found["stopped"] = stopped.wait(250)
    found["step after SIGTERM"] = checkpoint.latest_step(workdir)
    found["rows after SIGTERM"] = len(rows_of(workdir))

    train(read_config(config), workdir, examples)
    return found


def test_the_loss_falls(workdir: Path) -> None:
    """It falls below that of a uniform guess in 20 steps on invented danmaku."""
    rows = rows_of(workdir)
    vocab_size = BertConfig.from_json_file(workdir / "bert_config.json").vocab_size
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[0]["masked_lm_loss"] == pytest.approx(np.log(vocab_size), rel=0.05)
    assert rows[0]["next_sentence_loss"] == pytest.approx(np.log(2), rel=0.1)
    losses = [row["masked_lm_loss"] for row in rows]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_a_run_keeps_its_first_and_last_checkpoints_and_one_state(workdir: Path) -> None:
    """Step 0 stays for comparison; the optimizer's moments of old steps are deleted."""
    assert checkpoint.list_steps(workdir) == [0, 10, 20]
    assert sorted(path.name for path in workdir.glob("state-*.index")) == ["state-20.index"]
    assert checkpoint.latest_step(workdir) == 20


def test_a_killed_run_has_the_losses_of_an_uninterrupted_one(
    interrupted: dict[str, Any], examples: Path, tmp_path: Path
) -> None:
    """Every number of every step is equal to the last bit, and so are the weights at the end.

    The other one runs in loops of another length, which are a matter of speed alone.
    """
    assert interrupted["killed"] == -signal.SIGKILL
    assert interrupted["step after SIGKILL"] <= interrupted["rows after SIGKILL"] < STEPS
    prefix = train(replace(read_config(interrupted["config"]), steps_per_loop=10), tmp_path, examples)
    rows = rows_of(interrupted["workdir"])
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows == rows_of(tmp_path)
    one, other = read_checkpoint(prefix), read_checkpoint(interrupted["workdir"] / prefix.name)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_sigterm_saves_and_reports_an_unfinished_run(interrupted: dict[str, Any]) -> None:
    """The checkpoint is of the current step; the exit status keeps `make` from exporting it. A repeated signal does not
    interrupt saving.
    """
    assert interrupted["stopped"] == STOPPED
    assert interrupted["step after SIGTERM"] == interrupted["rows after SIGTERM"] < STEPS


def test_a_finished_run_is_left_as_it_is(workdir: Path, tiny_toml: Path, examples: Path) -> None:
    """Repeating the command does nothing."""
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    assert train(read_config(tiny_toml), workdir, examples) == workdir / "model.ckpt-20"
    assert {path.name: path.read_bytes() for path in workdir.iterdir()} == before


def test_another_config_in_the_same_workdir_is_refused(workdir: Path, tiny_toml: Path, examples: Path) -> None:
    """A run must not change its learning rate halfway; the error names both values."""
    other = replace(read_config(tiny_toml), learning_rate=1e-5)
    with pytest.raises(MismatchedRun, match=r"another config or examples \(learning_rate was 0.005\)"):
        train(other, workdir, examples)


def test_a_longer_run_is_refused_with_the_way_to_train_longer(
    workdir: Path, tiny_toml: Path, examples: Path, tmp_path: Path
) -> None:
    """The suggested way works: another run, from the last checkpoint of the first."""
    longer = replace(read_config(tiny_toml), num_train_steps=25)
    with pytest.raises(MismatchedRun, match=r"num_train_steps was 20.*--set (init_checkpoint=\S+)") as refused:
        train(longer, workdir, examples)
    override = str(refused.value).rpartition(" ")[2]
    config = read_config(tiny_toml, [override, "num_train_steps=5"])
    assert train(config, tmp_path, examples) == tmp_path / "model.ckpt-5"


def test_the_intervals_of_saving_and_logging_may_change(workdir: Path, tiny_toml: Path, examples: Path) -> None:
    """They do not affect what is learned."""
    other = replace(read_config(tiny_toml), steps_per_loop=5, save_checkpoints_steps=2, log_steps=7)
    assert train(other, workdir, examples) == workdir / "model.ckpt-20"


def test_the_same_number_of_other_examples_is_refused(
    workdir: Path, tiny_toml: Path, examples: Path, tmp_path: Path
) -> None:
    """Their digest identifies them."""
    other = shutil.copytree(examples, tmp_path / "other")
    made = json.loads((other / "examples.json").read_text(encoding="utf-8"))
    (other / "examples.json").write_text(json.dumps({**made, "digest": "0" * 64}), encoding="utf-8")
    with pytest.raises(MismatchedRun, match="the examples are different"):
        train(read_config(tiny_toml), workdir, other)


def test_other_examples_in_the_same_workdir_are_refused(
    workdir: Path, tiny_toml: Path, examples: Path, tmp_path: Path
) -> None:
    """A vocabulary with two tokens exchanged would give the same ids other meanings."""
    other = shutil.copytree(examples, tmp_path / "other")
    vocab = (other / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocab[-1], vocab[-2] = vocab[-2], vocab[-1]
    (other / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    with pytest.raises(MismatchedRun, match="another config or examples"):
        train(read_config(tiny_toml), workdir, other)


def test_a_start_that_failed_does_not_claim_the_workdir(tiny_toml: Path, examples: Path, tmp_path: Path) -> None:
    """After a wrong init_checkpoint the corrected config may use the same folder."""
    config = replace(read_config(tiny_toml), num_train_steps=5)
    with pytest.raises(ValueError, match=r"cannot read .*nowhere\.index"):
        train(replace(config, init_checkpoint=str(tmp_path / "nowhere")), tmp_path / "run", examples)
    assert train(config, tmp_path / "run", examples).name == "model.ckpt-5"


def test_a_run_continues_from_a_published_checkpoint(
    models: tuple[Path, Path], tiny_toml: Path, examples: Path, tmp_path: Path
) -> None:
    """Its step 0 is that checkpoint, without what BERT does not have, such as the moments of another optimizer.

    One that does not fit names the variable: with both shapes, or that it is missing.
    """
    given = read_checkpoint(find_checkpoint(models[1]))
    prefix = tmp_path / "published.ckpt"
    moments = {"bert/pooler/dense/kernel/adam_m": np.ones(3, np.float32), "global_step": np.int64(9)}
    checkpoint.write(prefix, {**given, **moments})
    config = replace(read_config(tiny_toml), init_checkpoint=str(prefix), num_train_steps=5)
    train(config, tmp_path / "run", examples)
    first = read_checkpoint(tmp_path / "run/model.ckpt-0")
    assert first.keys() == given.keys()
    assert all(np.array_equal(given[name], first[name]) for name in given)
    wide = replace(config, model={**config.model, "intermediate_size": 96})
    with pytest.raises(
        ValueError, match=r"invalid shape of .*intermediate/dense/kernel: \[32, 64\]; expected \[32, 96\]"
    ):
        train(wide, tmp_path / "wide", examples)
    del given["cls/predictions/output_bias"]
    checkpoint.write(prefix, given)
    with pytest.raises(ValueError, match=r"published\.ckpt has no variable cls/predictions/output_bias"):
        train(config, tmp_path / "less", examples)


def test_a_run_continues_from_a_model_in_hugging_face_s_layout(
    models: tuple[Path, Path], tiny_toml: Path, examples: Path, tmp_path: Path
) -> None:
    """Heads that it lacks start from random weights; rows beyond the vocabulary are left out; another is refused."""
    start = export(None, tmp_path / "start", model=models[1], layout="huggingface")
    given = open_model_directory(start)
    config = read_config(tiny_toml)
    depth = {"num_hidden_layers": given.config.num_hidden_layers}
    config = replace(config, init_checkpoint=str(start), num_train_steps=5, model={**config.model, **depth})
    train(config, tmp_path / "run", examples)

    first = read_checkpoint(tmp_path / "run/model.ckpt-0")
    assert all(np.array_equal(values, first[name]) for name, values in given.weights.items())
    assert first["cls/predictions/transform/dense/kernel"].any()

    _pad_vocabulary(start)
    train(config, tmp_path / "padded", examples)
    padded = read_checkpoint(tmp_path / "padded/model.ckpt-0")
    assert all(np.array_equal(first[name], padded[name]) for name in first)

    (start / "tokenizer.json").unlink()
    vocab = (start / "vocab.txt").read_text(encoding="utf-8")
    (start / "vocab.txt").write_text(vocab.replace("草", "龘"), encoding="utf-8")
    with pytest.raises(ValueError, match="has another vocabulary; expected that of the examples"):
        train(config, tmp_path / "other", examples)


def _pad_vocabulary(directory: Path) -> None:
    """Adds rows to the table of embeddings, as is done for the speed of GPUs, up to a multiple of 64."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    weights = load_file(directory / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    config["vocab_size"] += (rows := 64 - config["vocab_size"] % 64)
    weights[name] = np.vstack([weights[name], np.ones((rows, config["hidden_size"]), np.float32)])
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, directory / "model.safetensors")


@pytest.mark.filterwarnings("error")
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(
    tiny_toml: Path, examples: Path, tmp_path: Path
) -> None:
    """The error names the step and what to change; the newest checkpoint is valid."""
    config = replace(read_config(tiny_toml), learning_rate=1e30, num_warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"at step \d+; expected a finite number: lower learning_rate"):
        train(config, tmp_path, examples)
    assert checkpoint.latest_step(tmp_path) == 0


def test_a_misspelt_field_of_the_model_is_named(tiny_toml: Path, examples: Path, tmp_path: Path) -> None:
    """The error lists the valid fields."""
    config = replace(read_config(tiny_toml), model={"hiden_size": 32})
    with pytest.raises(ValueError, match="unknown setting hiden_size in .*; expected .*hidden_size"):
        train(config, tmp_path, examples)


def test_examples_longer_than_the_model_are_refused(tiny_toml: Path, examples: Path, tmp_path: Path) -> None:
    """The error has both numbers."""
    config = read_config(tiny_toml)
    short = replace(config, model={**config.model, "max_position_embeddings": 16})
    with pytest.raises(ValueError, match="invalid max_position_embeddings: 16; expected at least 32"):
        train(short, tmp_path, examples)


def test_too_many_frozen_layers_are_refused(tiny_toml: Path, examples: Path, tmp_path: Path) -> None:
    config = replace(read_config(tiny_toml), frozen_layers=99)
    with pytest.raises(ValueError, match="invalid frozen_layers: 99; expected at most"):
        train(config, tmp_path, examples)


def test_a_checkpoint_abandoned_by_a_kill_does_not_cost_the_next_one(tmp_path: Path) -> None:
    """Killed after step 50 was written but not named, the run resumes from 25 and is stopped at 30."""
    tensors = {"x": np.ones(2, np.float32)}
    for step in (0, 25, 50):
        checkpoint.save(tmp_path, step, tensors, tensors)
    checkpoint.write(tmp_path / "state-25", tensors)
    checkpoint.mark_latest(tmp_path, "model.ckpt-25")
    checkpoint.save(tmp_path, 30, tensors, tensors)
    assert checkpoint.latest_step(tmp_path) == 30
    assert checkpoint.list_steps(tmp_path) == [0, 25, 30]
    assert [path.name for path in tmp_path.glob("state-*.index")] == ["state-30.index"]


def test_a_named_checkpoint_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """Starting over silently would overwrite the rest."""
    checkpoint.mark_latest(tmp_path, "model.ckpt-7")
    with pytest.raises(ValueError, match=r"names model\.ckpt-7, but .*model\.ckpt-7\.index does not exist"):
        checkpoint.latest_step(tmp_path)


def test_a_resumed_log_drops_rows_after_the_checkpoint(tmp_path: Path) -> None:
    """It also drops a row that a crash truncated."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 1.0}\n{"step": 6, "lo', encoding="utf-8")
    log = TrainingLog(path, 2, log_steps=2)
    log.add(3, {"loss": 1.0}, tokens=1, seconds=1.0)
    log.add(4, {"loss": 2.0}, tokens=1, seconds=1.0)
    rows = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 1.0), (4, 1.5)]


def test_tensorboard_can_read_the_numbers(workdir: Path) -> None:
    """Event files contain the rows of the log and begin by invalidating steps after the checkpoint."""
    [path] = workdir.glob("events.out.tfevents.*")
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].session_log.status, events[1].step) == (tf.compat.v1.SessionLog.START, 1)
    for event, row in zip(events[2:], rows_of(workdir), strict=True):
        numbers = {value.tag: value.simple_value for value in event.summary.value}
        assert numbers.pop("tokens_per_s") > 0
        assert {"step": event.step, **numbers} == pytest.approx(row)


def test_a_run_may_use_a_remote_file_system(corpus: Path, tiny_toml: Path, tmp_path: Path) -> None:
    """Examples, workdir, resuming and export work on one of TensorFlow's own file systems."""
    bucket = f"ram://{tmp_path.name}"
    write_examples(
        corpus, parse_location(f"{bucket}/examples"), ExampleSettings(max_seq_length=32), lines_per_shard=150
    )
    config = replace(read_config(tiny_toml), num_train_steps=8, save_checkpoints_steps=4)
    workdir = parse_location(f"{bucket}/run")
    with pytest.raises(FileNotFoundError, match=r"no examples\.json in ram://.*/nowhere"):
        train(config, workdir, parse_location(f"{bucket}/nowhere"))
    assert str(train(config, workdir, parse_location(f"{bucket}/examples"))) == f"{bucket}/run/model.ckpt-8"
    assert checkpoint.list_steps(workdir) == [0, 4, 8]
    assert str(train(config, workdir, parse_location(f"{bucket}/examples"))) == f"{bucket}/run/model.ckpt-8"
    exported = export(workdir, tmp_path / "model")
    assert exported == tmp_path / "model/model.ckpt-8"
    with pytest.raises(MismatchedRun, match="learning_rate was"):
        train(replace(config, learning_rate=1.0), workdir, parse_location(f"{bucket}/examples"))


def test_the_checkpoint_holds_exactly_the_variables_of_bert(workdir: Path) -> None:
    """It contains no variables of the optimizer, and none is renamed."""
    config = BertConfig.from_json_file(workdir / "bert_config.json")
    found = {name: values.shape for name, values in read_checkpoint(workdir / "model.ckpt-20").items()}
    assert found == model.variable_shapes(config)
