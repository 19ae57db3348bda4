"""Judges vectors by labelled tasks: linear classifiers on frozen vectors, and cosines of pairs of texts.

The tasks are the .tsv files of a folder. Lines of `text, label` are a classification: the classifier learns from
NAME_train.tsv and is judged on NAME_dev.tsv, or on a third of a file without a counterpart, by a hash of the texts.
Lines of `text, text, label` are pairs; the label is 1 if they mean the same. How often is the cosine of such a pair
above that of another?

The classifier is a logistic regression on standardised vectors of one layer, or of all together. A quarter of the
training texts chooses the best layers and the strength of the regularisation; the judged texts never do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.corpus.files import hash_of
from training.evaluation.intervals import (
    RESAMPLES,
    SEED,
    Mean,
    bootstrap_auc,
    bootstrap_mean,
    draw_multiplicities,
    percentile_interval,
)
from training.evaluation.space import Matrix, compare_rows

JUDGED_SHARE = 1 / 3  # of a file without a counterpart
VALIDATION_SHARE = 1 / 4  # of the training texts
STRENGTHS = (0.01, 0.1, 1.0)  # scikit-learn's C, the inverse of the regularisation
TFIDF_STRENGTHS = (1.0, 3.0, 10.0)
BEST, MAJORITY = "best", "majority"

Features = dict[str, Matrix]  # by layers, under their names in the table
Featurise = Callable[[list[str]], Features]


@dataclass(frozen=True)
class Task:
    """Texts to learn from and to judge, with their labels."""

    name: str
    train: list[str]
    train_labels: np.ndarray
    judged: list[str]
    judged_labels: np.ndarray


@dataclass(frozen=True)
class PairTask:
    """Pairs of texts, some of which mean the same."""

    name: str
    first: list[str]
    second: list[str]
    same: np.ndarray  # bool


@dataclass(frozen=True)
class Probe:
    """The results of a classifier on texts that it has not learned from."""

    accuracy: Mean
    macro_f1: Mean
    layers: str


@dataclass(frozen=True)
class Labelled:
    """The results of one model or baseline on all tasks."""

    tasks: dict[str, dict[str, Probe]]  # by task, then by layers; `best` are those that validation chose
    pairs: dict[str, Mean]  # areas under the ROC curve


def read_tasks(folder: Path) -> list[Task | PairTask]:
    """Reads the tasks of a folder, in the order of their names. Raises ValueError for other lines and without tasks."""
    files = {path.stem: _read(path) for path in sorted(folder.glob("*.tsv"))}
    if not files:
        raise ValueError(f"invalid {folder}; expected .tsv files of text and label, or of text, text and label")
    tasks: list[Task | PairTask] = []
    for stem, rows in files.items():
        name = stem.removesuffix("_dev").removesuffix("_train")
        if len(rows[0]) == 3:
            first, second, same = zip(*rows, strict=True)
            tasks.append(PairTask(name, list(first), list(second), np.array(same) == "1"))
        elif f"{name}_train" in files and f"{name}_dev" in files:
            if stem.endswith("_train"):
                tasks.append(_task(name, rows, files[f"{name}_dev"]))
        else:
            is_judged = [hash_of(f"judged {text}") < JUDGED_SHARE * 2**64 for text, _ in rows]
            parts = [
                [row for row, judged in zip(rows, is_judged, strict=True) if judged is part] for part in (False, True)
            ]
            tasks.append(_task(name, *parts))
    return tasks


def list_texts(tasks: list[Task | PairTask]) -> list[str]:
    """Lists the texts of the tasks, each once."""
    found: dict[str, None] = {}
    for task in tasks:
        parts = (task.train, task.judged) if isinstance(task, Task) else (task.first, task.second)
        found |= dict.fromkeys(text for part in parts for text in part)
    return list(found)


def judge(tasks: list[Task | PairTask], featurise: Featurise, strengths: tuple[float, ...] = STRENGTHS) -> Labelled:
    """Trains the classifiers; compares pairs by the first of the features."""
    known = list_texts(tasks)
    place_of = {text: place for place, text in enumerate(known)}
    features = featurise(known)
    found: dict[str, dict[str, Probe]] = {}
    pairs: dict[str, Mean] = {}
    for task in tasks:
        if isinstance(task, Task):
            rows = [np.array([place_of[text] for text in part]) for part in (task.train, task.judged)]
            split = {layers: (vectors[rows[0]], vectors[rows[1]]) for layers, vectors in features.items()}
            found[task.name] = _judge_task(task, split, strengths)
        else:
            first, second = (np.array([place_of[text] for text in part]) for part in (task.first, task.second))
            pairs[task.name] = _judge_pairs(next(iter(features.values())), first, second, task.same)
    return Labelled(found, pairs)


def judge_tfidf(tasks: list[Task | PairTask]) -> Labelled:
    """Judges characters, pairs and triples of them, weighted by TF-IDF on each task alone."""
    found: dict[str, dict[str, Probe]] = {}
    pairs: dict[str, Mean] = {}
    for task in tasks:
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
        if isinstance(task, Task):
            split = {
                "tf-idf": (vectorizer.fit_transform(task.train).tocsr(), vectorizer.transform(task.judged).tocsr())
            }
            found[task.name] = _judge_task(task, split, TFIDF_STRENGTHS)
        else:
            vectors = vectorizer.fit_transform([*task.first, *task.second]).tocsr()
            numbers = np.arange(len(task.first))
            pairs[task.name] = _judge_pairs(vectors, numbers, numbers + len(numbers), task.same)
    return Labelled(found, pairs)


def score_macro_f1(truth: np.ndarray, predicted: np.ndarray) -> Mean:
    """Returns the mean over classes of the harmonic mean of precision and recall."""
    labels = np.unique(truth)
    true = (truth[:, None] == labels).astype(np.float32)  # [n, classes]
    guesses = (predicted[:, None] == labels).astype(np.float32)
    hits = true * guesses

    def score(times: np.ndarray) -> np.ndarray:
        """Scores texts, each counted `times` times: [n] or [r, n] → scalar or [r]."""
        return np.asarray((2 * (times @ hits) / np.maximum(times @ guesses + times @ true, 1)).mean(-1))

    resamples = draw_multiplicities(np.random.default_rng(SEED), RESAMPLES, len(truth))
    return percentile_interval(float(score(np.ones(len(truth), np.float32))), score(resamples), len(truth))


def _judge_task(task: Task, split: dict[str, tuple[Matrix, Matrix]], strengths: tuple[float, ...]) -> dict[str, Probe]:
    """Probes the first features, and those that do best on the validation part."""
    is_validation = np.array([hash_of(f"validation {text}") < VALIDATION_SHARE * 2**64 for text in task.train])
    scores: dict[tuple[str, float], float] = {}
    for layers, (train, _) in split.items():
        for strength in strengths:
            classifier = _classifier(train, strength).fit(train[~is_validation], task.train_labels[~is_validation])
            scores[layers, strength] = classifier.score(train[is_validation], task.train_labels[is_validation])
    first = next(iter(split))
    chosen = {
        first: max((key for key in scores if key[0] == first), key=scores.__getitem__),
        BEST: max(scores, key=scores.__getitem__),
    }
    probes = {}
    for name, (layers, strength) in chosen.items():
        train, judged = split[layers]
        predicted = _classifier(train, strength).fit(train, task.train_labels).predict(judged)
        probes[name] = _probe(task, predicted, layers)
    labels, counts = np.unique(task.train_labels, return_counts=True)
    probes[MAJORITY] = _probe(task, np.full(len(task.judged), labels[counts.argmax()]), "")
    return probes


def _classifier(vectors: Matrix, strength: float) -> LogisticRegression:
    classifier = LogisticRegression(C=strength, max_iter=1000, random_state=0)
    return make_pipeline(StandardScaler(), classifier) if isinstance(vectors, np.ndarray) else classifier


def _probe(task: Task, predicted: np.ndarray, layers: str) -> Probe:
    right = (predicted == task.judged_labels).astype(np.float64)
    return Probe(bootstrap_mean(right), score_macro_f1(task.judged_labels, predicted), layers)


def _judge_pairs(vectors: Matrix, first: np.ndarray, second: np.ndarray, same: np.ndarray) -> Mean:
    found = compare_rows(vectors, first, second)
    return bootstrap_auc(found[same], found[~same])


def _task(name: str, train: list[list[str]], judged: list[list[str]]) -> Task:
    texts, labels = zip(*train, strict=True)
    judged_texts, judged_labels = zip(*judged, strict=True)
    return Task(name, list(texts), np.array(labels), list(judged_texts), np.array(judged_labels))


def _read(path: Path) -> list[list[str]]:
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    for number, row in enumerate(rows, 1):
        if len(row) not in (2, 3) or len(row) != len(rows[0]):
            raise ValueError(
                f"invalid {path}, line {number}: {len(row)} columns; expected text and label, or text, text and label, "
                "separated by tabs, the same in every line"
            )
    return rows
