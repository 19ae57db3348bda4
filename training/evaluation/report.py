"""Formats the four pre-training numbers as a table.

The Markdown has the form of the recipe's table, a row per model and corpus, to be pasted into a model card. The notes
below it put the numbers into context: the accuracy of always predicting the commonest answer, and how much of a corpus
the model may have seen.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from training.bert.losses import METRICS
from training.evaluation.evaluate import Z_95, Evaluation
from training.evaluation.tables import align

CORPORA = {"train.txt": "training set", "heldout.txt": "held-out set"}  # as `clean` names them


def format_pretraining(rows: list[Evaluation]) -> str:
    """Returns the table and the notes below it, as Markdown."""
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
    return "\n".join([*align(lines), "", *_notes(rows)]) + "\n"


def _corpus_name(row: Evaluation) -> str:
    """Returns the name of a corpus in the table."""
    return _name(row.corpus) + (", unseen danmaku only" if row.unseen_only else "")


def _name(corpus: str) -> str:
    """Returns the split, if `clean` wrote the corpus, else its path."""
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
        f"{_corpus_name(row)}: always predicting {row.commonest_token!r} has a masked_lm_accuracy of "
        f"{row.commonest_token_share:.4f}, always {row.commonest_next_sentence_label} a next_sentence_accuracy of "
        f"{row.commonest_next_sentence_share:.4f} ({row.vocab_size:,} tokens of vocabulary)."
        for row in rows
    ]
    notes += [f"{_corpus_name(row)}: {_name(row.overlap.other)} contains {row.overlap}." for row in rows if row.overlap]
    return [f"* {note}" for note in dict.fromkeys(notes)]
