"""The table of `evaluate --retrieval`: a row per question, a column per way to make vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from training.evaluation.intervals import Mean
from training.evaluation.retrieval import Retrieval
from training.evaluation.tables import align


def retrieval_markdown(rows: list[Retrieval]) -> str:
    """The table of `evaluate --retrieval`: a row per question, a column per way to make vectors."""
    first = rows[0]
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
        f"Mean reciprocal ranks unless said otherwise, with 95 % intervals. Questions: {asked}, "
        f"{first.opposites['test'].false_merges.count} opposites of the test split. "
        "Less is better from the opposites that are merged on."
    )
    return "\n".join([*align(lines), "", f"* {note}"]) + "\n"


def _kind(row: Retrieval, kind: str) -> str:
    return _interval(row.synonyms_by_kind[kind])


def _interval(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
