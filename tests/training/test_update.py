"""A model is trained on new recordings, and not exported if it forgets the old ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from training import update as update_module
from training.config import AlignConfig
from training.corpus.files import split_of
from training.evaluation.intervals import Mean
from training.update import Change, choose_replay, update

HELDOUT = 0.4
CONFIG = AlignConfig(
    batch_size=8,
    num_train_steps=2,
    num_warmup_steps=1,
    log_steps=1,
    min_count=2,
    dims=(16, 32),
    moment_weight=0.0,
    pretraining_examples=4,
    spelled_texts=4,
    centred=False,
    turned=False,
)


@pytest.fixture
def recordings(danmaku: Path, tmp_path: Path) -> tuple[Path, Path]:
    """New recordings and old ones, each with some that are held out."""
    files = sorted(danmaku.glob("**/*.csv"), key=lambda file: split_of(file.stem, HELDOUT))
    for number, file in enumerate(files):
        folder = tmp_path / ("new" if number % 2 else "old")
        folder.mkdir(exist_ok=True)
        shutil.copy(file, folder)
    return tmp_path / "new", tmp_path / "old"


def test_replay_is_as_large_as_the_new_recordings_and_not_held_out(recordings: tuple[Path, Path]) -> None:
    new, old = recordings
    chosen = choose_replay([new], [old], HELDOUT)
    assert chosen and all(file.parent == old and split_of(file.stem, HELDOUT) == "train" for file in chosen)


def test_a_model_is_exported_unless_it_got_worse(
    recordings: tuple[Path, Path],
    models: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.alignment.batches.LENGTHS", np.array([8]))
    monkeypatch.setattr(update_module, "EXAMPLES", 100)
    new, old = recordings
    workdir, output = tmp_path / "run", tmp_path / "updated"
    compare = cache(partial(update_module.compare, models[1], workdir, [new], [old], HELDOUT))
    for is_worse in (True, False):  # of one run, which the second time is finished

        def compare_and_lose(*_: object, is_worse: bool = is_worse) -> list[Change]:
            first, *others = compare()
            before = replace(first.before, low=first.after.value + (0.1 if is_worse else -0.1))
            return [replace(first, before=before), *(one for one in others if not one.is_old)]

        with monkeypatch.context() as patch:
            patch.setattr(update_module, "compare", compare_and_lose)
            found = update(CONFIG, workdir, models[1], [new], [old], output, heldout=HELDOUT)
        assert found is not None
        assert output.exists() is not is_worse
        assert found.losses == (["masked_lm_accuracy, old"] if is_worse else [])
        assert "| masked_lm_accuracy, old |" in found.markdown()


def test_a_decrease_within_the_interval_is_not_a_loss() -> None:
    before = Mean(0.40, 0.38, 0.42, 100)
    assert not Change("", True, before, replace(before, value=0.385)).is_worse
    assert Change("", True, before, replace(before, value=0.37)).is_worse
