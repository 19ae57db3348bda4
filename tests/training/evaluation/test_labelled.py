"""Classification tasks for vectors, and invalid tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.evaluation.labelled import (
    BEST,
    MAJORITY,
    Features,
    PairTask,
    Task,
    judge,
    judge_tfidf,
    list_texts,
    read_tasks,
    score_macro_f1,
)

COUNT = 240


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts whose parity is the label; there are half as many odd ones."""
    rows = [f"第{number}条{'好' if number % 2 else '差'}评\t{number % 2}" for number in range(COUNT)]
    (tmp_path / "shop.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "rude_train.tsv").write_text("\n".join(rows[:160]) + "\n", encoding="utf-8")
    (tmp_path / "rude_dev.tsv").write_text("\n".join(rows[160:]) + "\n", encoding="utf-8")
    pairs = [f"问{number}\t{'问' if number % 2 else '答'}{number}\t{number % 2}" for number in range(40)]
    (tmp_path / "questions_dev.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    return tmp_path


def features_of(texts: list[str]) -> Features:
    """Returns a first layer of noise and a second that tells good reviews from bad ones."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((len(texts), 4)).astype(np.float32)
    known = noise.copy()
    known[:, 0] += [5 * ("好" in text) for text in texts]
    return {"-2": noise, "-1": known}


def test_tables_are_tasks_by_their_columns_and_names(folder: Path) -> None:
    questions, rude, shop = read_tasks(folder)
    assert isinstance(questions, PairTask) and questions.name == "questions" and questions.same.sum() == 20
    assert isinstance(rude, Task) and (len(rude.train), len(rude.judged)) == (160, 80)
    assert isinstance(shop, Task) and len(shop.train) + len(shop.judged) == COUNT
    assert 0.2 < len(shop.judged) / COUNT < 0.5 and not set(shop.train) & set(shop.judged)
    assert len(list_texts([rude, shop])) == COUNT


def test_the_split_of_a_file_depends_on_its_texts(folder: Path) -> None:
    """Neither their order nor the run matters."""
    before = read_tasks(folder)[-1]
    rows = (folder / "shop.tsv").read_text(encoding="utf-8").splitlines()
    (folder / "shop.tsv").write_text("\n".join(reversed(rows)) + "\n", encoding="utf-8")
    after = read_tasks(folder)[-1]
    assert isinstance(before, Task) and isinstance(after, Task)
    assert set(before.judged) == set(after.judged)


def test_the_best_layers_are_reported_beside_the_first_ones(folder: Path) -> None:
    shop = judge(read_tasks(folder), features_of).tasks["shop"]
    assert shop[BEST].layers == "-1" and shop[BEST].accuracy.value > 0.95 and shop[BEST].macro_f1.value > 0.95
    assert shop["-2"].accuracy.value < 0.75 and shop["-2"].layers == "-2"
    assert shop[MAJORITY].accuracy.value < 0.65


def test_layers_are_not_chosen_on_the_test_split(folder: Path) -> None:
    """A layer that knows the test texts alone is not chosen."""
    tasks = [task for task in read_tasks(folder) if task.name == "rude"]
    judged = set(tasks[0].judged) if isinstance(tasks[0], Task) else set()

    def cheating(texts: list[str]) -> Features:
        found = features_of(texts)
        cheats = found["-2"].copy()
        cheats[:, 0] += [50 * ("好" in text) for text in texts] * np.array([text in judged for text in texts])
        return {"-2": found["-2"], "-1": found["-1"], "cheats": cheats}

    assert judge(tasks, cheating).tasks["rude"][BEST].layers == "-1"


def test_pairs_are_judged_by_cosine_of_the_first_features(folder: Path) -> None:
    def by_kind(texts: list[str]) -> Features:
        return {"-2": np.array([[text[0] == "问", text[0] == "答"] for text in texts], np.float32)}

    questions = [task for task in read_tasks(folder) if isinstance(task, PairTask)]
    assert judge(questions, by_kind).pairs["questions"].value == 1.0


def test_tfidf_learns_the_task_alone(folder: Path) -> None:
    found = judge_tfidf(read_tasks(folder))
    assert found.tasks["rude"][BEST].accuracy.value > 0.95
    assert found.pairs["questions"].value > 0.9


def test_macro_f1_weights_classes_equally() -> None:
    """Always answering the class of nine in ten texts gets less than half."""
    truth = np.array([0] * 9 + [1])
    assert score_macro_f1(truth, np.zeros(10)).value == pytest.approx((18 / 19) / 2)
    assert score_macro_f1(truth, truth).value == 1.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [("好\t1\n差\n", "line 2: 1 columns; expected text and label"), ("", "line 1: 1 columns"), (None, "expected .tsv")],
)
def test_an_invalid_table_is_refused(rows: str | None, message: str, tmp_path: Path) -> None:
    if rows is not None:
        (tmp_path / "shop.tsv").write_text(rows, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_tasks(tmp_path)
