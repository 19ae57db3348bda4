"""Trains a model further on new recordings and a replay of old ones; exports it only if it still knows the old ones.

A model that is trained only on new recordings forgets the old ones. So an equal amount of old recordings, in files
chosen by a hash of their names, is read again, and the model answers the same questions before and after: the two
pre-training tasks, moments of held-out old documents and synonyms, and moments of held-out new documents. The loss uses
pairs of danmaku of one moment, but not the vectors of moments, whose coordinates depend on the recordings that they
were counted in.

A new vocabulary is not supported. New words are split into pieces that the model knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from service.model_directory import open_model_directory
from training.alignment import timed_lines
from training.alignment.align import align
from training.alignment.pretraining import PretrainingExamples
from training.alignment.timed_lines import TimedLines, read_moments
from training.bert import model as bert
from training.bert.export import export
from training.bert.losses import losses
from training.config import AlignConfig
from training.corpus.files import Source, find_sources, split_of
from training.evaluation.evaluate import wilson_interval
from training.evaluation.intervals import Mean
from training.evaluation.models import embed
from training.evaluation.pairs import OPPOSITES, SYNONYMS, VARIANTS, read_pairs
from training.evaluation.retrieval import answer, ask
from training.examples.settings import ExampleSettings

EXAMPLES, EXAMPLES_AT_ONCE = 2_000, 100  # of the two pre-training tasks


@dataclass(frozen=True)
class Change:
    """The answers to one question before and after, each with a 95 % interval."""

    question: str
    is_old: bool  # about what the model learned before
    before: Mean
    after: Mean

    @property
    def is_worse(self) -> bool:
        """Whether the new answer is below the interval of the old one."""
        return self.after.value < self.before.low


@dataclass(frozen=True)
class Update:
    """The changes, and which of them are losses."""

    changes: list[Change]

    @property
    def losses(self) -> list[str]:
        return [change.question for change in self.changes if change.is_old and change.is_worse]

    def markdown(self) -> str:
        """Returns a table of the answers."""
        rows = [f"| {one.question} | {_cell(one.before)} | {_cell(one.after)} |" for one in self.changes]
        return "\n".join(["| | before | after |", "|---|---|---|", *rows]) + "\n"


def update(
    config: AlignConfig,
    workdir: Path,
    model: Path,
    recordings: list[Path],
    replay: list[Path],
    output: Path,
    *,
    heldout: float = 0.05,
) -> Update | None:
    """Trains as `align` does, compares, and exports to `output` if nothing old is lost; None if the run was stopped.

    Raises ValueError if the old or the new recordings have no held-out document.
    """
    old = choose_replay(recordings, replay, heldout)
    newest = align(config, workdir, [model], [*recordings, *old], heldout=heldout)
    if not newest.name.endswith(f"-{config.num_train_steps}"):
        return None
    found = Update(compare(model, workdir, recordings, replay, heldout))
    if not found.losses:
        export(workdir, output)
    return found


def choose_replay(recordings: list[Path], replay: list[Path], heldout: float) -> list[Path]:
    """Returns old files that are not held out, by a hash of their names, with as many bytes as the new ones."""
    wanted = sum(source.num_bytes for source in find_sources(recordings)[0])
    chosen: list[Source] = []
    for source in find_sources(replay)[0]:
        if sum(one.num_bytes for one in chosen) >= wanted:
            break
        if split_of(source.name, heldout) == "train":
            chosen.append(source)
    return [source.path for source in chosen]


def compare(before: Path, after: Path, recordings: list[Path], replay: list[Path], heldout: float) -> list[Change]:
    """Asks both models about old and new documents that `align` has left out; `after` is the workdir of its run."""
    tokenizer = open_model_directory(before, bert.variable_shapes).tokenizer
    train = TimedLines.load(after / timed_lines.FILE)
    changes = []
    for name, paths in (("old", replay), ("new", recordings)):
        lines = read_moments(paths, tokenizer, split="heldout", heldout=heldout)
        synonyms, variants, opposites = (read_pairs(file, tokenizer) for file in (SYNONYMS, VARIANTS, OPPOSITES))
        questions = ask(train, lines, synonyms=synonyms, variants=variants, opposites=opposites)
        pair = [answer(str(path), embed(path, questions.texts), questions) for path in (before, after)]
        tasks = [measure_pretraining(path, lines) for path in (before, after)]
        is_old = name == "old"
        for task in tasks[0]:
            changes.append(Change(f"{task}, {name}", is_old, *(found[task] for found in tasks)))
        changes.append(Change(f"same moment, {name}", is_old, *(found.same_moment for found in pair)))
        if is_old:
            changes.append(Change("synonyms", is_old, *(found.synonyms for found in pair)))
            changes.append(Change("variants", is_old, *(found.variants for found in pair)))
    return changes


def measure_pretraining(directory: Path, lines: TimedLines) -> dict[str, Mean]:
    """Returns masked_lm_accuracy and next_sentence_accuracy on examples of the lines, the same for every model."""
    opened = open_model_directory(directory, bert.variable_shapes)
    settings = ExampleSettings(max_seq_length=opened.config.max_position_embeddings)
    examples = PretrainingExamples(lines, None, opened.tokenizer, settings, general_share=0.0, seed=0)
    hits, counts = np.zeros(2), np.zeros(2)
    for step in range(EXAMPLES // EXAMPLES_AT_ONCE):
        batch = {name: tf.constant(values) for name, values in examples.batch(step, EXAMPLES_AT_ONCE).items()}
        found = losses(opened.weights, opened.config, batch)
        count = np.array([float(found["predictions"]), EXAMPLES_AT_ONCE])
        hits += np.array([float(found["masked_lm_accuracy"]), float(found["next_sentence_accuracy"])]) * count
        counts += count
    means = {}
    names = ("masked_lm_accuracy", "next_sentence_accuracy")
    for name, share, num_asked in zip(names, (hits / counts).tolist(), counts.astype(int).tolist(), strict=True):
        means[name] = Mean(share, *wilson_interval(share, num_asked), num_asked)
    return means


def _cell(mean: Mean) -> str:
    return f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
