"""Formats the results of `evaluate --retrieval`: a row per question, a column per model or baseline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from training.evaluation.intervals import Mean
from training.evaluation.labelled import BEST, MAJORITY
from training.evaluation.retrieval import Retrieval
from training.evaluation.tables import align

SERVED = "-2"  # the layer that the service pools


def format_retrieval(rows: list[Retrieval]) -> str:
    """Returns the table and the notes below it, as Markdown."""
    first = max(rows, key=lambda row: row.same_moment.count)
    questions: list[tuple[str, Callable[[Retrieval], str]]] = [
        ("same moment, videos", lambda row: _interval(row.same_moment)),
        ("same moment, live rooms", lambda row: _interval(row.same_moment_live)),
        ("synonyms", lambda row: _interval(row.synonyms)),
        ("synonyms without a shared character", lambda row: _interval(row.synonyms_without_shared_characters)),
        ("synonyms, variants left out", lambda row: _interval(row.synonyms_without_variants)),
        *((f"… {kind}", partial(_kind, kind=kind)) for kind in first.synonyms_by_kind),
        ("words of 2020", lambda row: _interval(row.synonyms_2020)),
        ("variants", lambda row: _interval(row.variants)),
        ("variants above opposites, AUC", lambda row: _interval(row.opposites["test"].against_variants)),
        ("synonyms above opposites, AUC", lambda row: _interval(row.opposites["test"].against_synonyms)),
        ("opposites merged where 80 % of variants are", lambda row: _interval(row.opposites["test"].false_merges)),
        ("share of ten hubs among the nearest", lambda row: _interval(row.hubs)),
        ("strangers' mean cosine", lambda row: _interval(row.strangers.mean)),
        ("… standard deviation", lambda row: f"{row.strangers.standard_deviation:.3f}"),
        ("alignment", lambda row: f"{row.alignment:.2f}"),
        ("uniformity", lambda row: f"{row.uniformity:.2f}"),
    ]
    questions += _labelled_questions(rows)
    lines = [("", *(row.name for row in rows))]
    lines += [(title, *map(cell, rows)) for title, cell in questions if any(cell(row) for row in rows)]
    counts = [
        (first.same_moment, "of a moment of videos"),
        (first.same_moment_live, "of a moment of live rooms"),
        (first.synonyms, "of synonyms"),
        (first.synonyms_without_shared_characters, "of them without a shared character"),
        (first.synonyms_2020, "of words of 2020"),
        (first.variants, "of variants"),
    ]
    asked = ", ".join(f"{mean.count:,} {what}" for mean, what in counts if mean)
    note = (
        f"Mean reciprocal ranks where no other measure is named, with 95 % intervals; chance is 0.052 for moments and "
        f"0.007 for pairs. Questions: {asked}, "
        f"{first.opposites['test'].false_merges.count} opposites of the test split. "
        "Less is better of merged opposites, hubs, strangers, alignment and uniformity."
    )
    return (
        "\n".join([*align(lines), "", *(f"* {line}" for line in [note, *_fewer_questions(rows), *_majorities(rows)])])
        + "\n"
    )


def _labelled_questions(rows: list[Retrieval]) -> list[tuple[str, Callable[[Retrieval], str]]]:
    """Returns rows for each task, by the service's layer and by the best layers, and one for each list of pairs."""
    found: list[tuple[str, Callable[[Retrieval], str]]] = []
    labelled = next((row.labelled for row in rows if row.labelled), None)
    if labelled is None:
        return found
    for name in labelled.tasks:
        for what in ("accuracy", "macro_f1"):
            title = f"{name}, {what.replace('_f1', ' F1')}"
            found.append((f"{title}: layer −2", partial(_probe, task=name, layers=SERVED, what=what)))
            found.append((f"{title}: best layers", partial(_probe, task=name, layers=BEST, what=what)))
    found += [(f"{name}, AUC", partial(_pairs, task=name)) for name in labelled.pairs]
    return found


def _probe(row: Retrieval, task: str, layers: str, what: str) -> str:
    probe = row.labelled and row.labelled.tasks[task].get(layers)
    if not probe:
        return ""
    named = f" ({probe.layers})" if layers == BEST and probe.layers else ""
    return _interval(probe.accuracy if what == "accuracy" else probe.macro_f1) + named


def _pairs(row: Retrieval, task: str) -> str:
    return _interval(row.labelled.pairs[task] if row.labelled else None)


def _fewer_questions(rows: list[Retrieval]) -> list[str]:
    most = max(row.same_moment.count for row in rows)
    return [
        f"{row.name} is slow and was asked only the first {row.same_moment.count} questions of a moment and "
        f"{row.strangers.mean.count:,} pairs of strangers."
        for row in rows
        if row.same_moment.count < most
    ]


def _majorities(rows: list[Retrieval]) -> list[str]:
    labelled = next((row.labelled for row in rows if row.labelled), None)
    return [
        f"{name}: {probes[BEST].accuracy.count:,} texts judged; the commonest label alone has an accuracy of "
        f"{probes[MAJORITY].accuracy.value:.3f}, a macro F1 of {probes[MAJORITY].macro_f1.value:.3f}."
        for name, probes in (labelled.tasks.items() if labelled else ())
    ]


def _kind(row: Retrieval, kind: str) -> str:
    return _interval(row.synonyms_by_kind[kind])


def _interval(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
