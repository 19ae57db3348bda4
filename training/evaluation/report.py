"""Evaluations as a person reads them and as a program does.

The Markdown is the recipe's table in form, a row per model and corpus, so that it can be pasted into a model card;
it is aligned, so that it can be read in a terminal too. Below it stands what the numbers mean little without: what
knowing nothing would get, and how much of a corpus the model may have seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from training.bert.losses import METRICS
from training.evaluation.evaluate import Z_95, Evaluation
from training.evaluation.retrieval import Mean, Retrieval
from training.files import write_text

CORPORA = {"train.txt": "training set", "heldout.txt": "held-out set"}  # as `clean` names them


def markdown(rows: list[Evaluation]) -> str:
    """The table and the notes below it."""
    lines: list[tuple[str, ...]] = [("", *METRICS, "examples", "masked tokens")]
    lines += [
        (
            f"{Path(row.model).name}, {_corpus_name(row)}",
            *(_number(row, name) for name in METRICS),
            f"{row.examples:,}",
            f"{row.predictions:,}",
        )
        for row in rows
    ]
    return "\n".join([*_aligned(lines), "", *_notes(rows)]) + "\n"


def retrieval_markdown(rows: list[Retrieval]) -> str:
    """The table of `evaluate --retrieval`."""
    lines: list[tuple[str, ...]] = [
        (
            "",
            "same moment",
            "of these first",
            "synonyms",
            "… that share no character",
            "variants",
            "alignment",
            "uniformity",
        )
    ]
    lines += [
        (
            row.name,
            _interval(row.same_moment),
            f"{row.same_moment_accuracy:.3f}",
            _interval(row.synonyms),
            _interval(row.synonyms_without_shared_characters),
            _interval(row.variants),
            f"{row.alignment:.2f}",
            f"{row.uniformity:.2f}",
        )
        for row in rows
    ]
    first = rows[0]
    note = (
        f"Mean reciprocal ranks with 95 % intervals: {first.same_moment.count:,} questions of a moment, "
        f"{first.synonyms.count} of synonyms, {first.synonyms_without_shared_characters.count} of them without a "
        f"shared character, {first.variants.count} of variants."
    )
    return "\n".join([*_aligned(lines), "", f"* {note}"]) + "\n"


def write_markdown(path: Path, table: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table)


def write_json(path: Path, rows: Sequence[Evaluation | Retrieval]) -> None:
    """The rows as a JSON list, one object with all numbers each; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=2) + "\n")


def _interval(mean: Mean) -> str:
    return f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"


def _corpus_name(row: Evaluation) -> str:
    """A corpus as the table calls it."""
    return _name(row.corpus) + (", unseen danmaku only" if row.unseen_only else "")


def _name(corpus: str) -> str:
    """What it is for, if `clean` wrote it; else its path."""
    return CORPORA.get(Path(corpus).name, corpus)


def _number(row: Evaluation, name: str) -> str:
    values = asdict(row)
    if name.endswith("accuracy"):
        return f"{values[name]:.4f} [{values[f'{name}_low']:.4f}, {values[f'{name}_high']:.4f}]"
    error = values[f"{name}_standard_error"]
    return f"{values[name]:.4f}" + ("" if error is None else f" ± {Z_95 * error:.4f}")


def _notes(rows: list[Evaluation]) -> list[str]:
    first = rows[0]
    notes = [
        f"Intervals are 95 %. Every model was asked the same questions: seed {first.seed}, 15 % masked, "
        f"{first.max_seq_length} tokens."
        if len({(row.vocab_size, row.max_seq_length) for row in rows}) == 1
        else "Intervals are 95 %. The models differ in vocabulary or length, so they were asked different questions."
    ]
    notes += [
        f"{_corpus_name(row)}: always answering {row.commonest_token!r} has a masked_lm_accuracy of "
        f"{row.commonest_token_share:.4f}, always {row.commonest_next_sentence_label} a next_sentence_accuracy of "
        f"{row.commonest_next_sentence_share:.4f} ({row.vocab_size:,} tokens of vocabulary)."
        for row in rows
    ]
    notes += [f"{_corpus_name(row)}: in {_name(row.overlap.other)} stand {row.overlap}." for row in rows if row.overlap]
    return [f"* {note}" for note in dict.fromkeys(notes)]


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rows.insert(1, " | ".join("-" * width for width in widths))
    return [f"| {row} |" for row in rows]
