"""Reports how well a head does on held-out texts, for programs and for people."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from service.heads.head import Head, to_probabilities
from training.evaluation.intervals import Mean, bootstrap_mean
from training.evaluation.labelled import score_macro_f1
from training.evaluation.tables import align
from training.heads.texts import LabelledTexts

MISTAKES = 10
BINS = 10  # of probabilities
ESCAPES = str.maketrans({"|": "\\|", "\n": " ", "\r": " "})


def report(judged: LabelledTexts, scores: np.ndarray) -> dict[str, Any]:
    """Evaluates scores [n, labels] of texts, with 95 % intervals of a bootstrap."""
    truth, predicted = judged.labels, scores.argmax(1)
    probabilities = to_probabilities(scores)
    confidence = probabilities.max(1)
    confusion = np.zeros((len(judged.names), len(judged.names)), int)  # [true, predicted]
    np.add.at(confusion, (truth, predicted), 1)
    wrong = np.flatnonzero(truth != predicted)
    most_confident = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    commonest = np.full(len(truth), np.bincount(truth).argmax())
    own = np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)
    return {
        "texts": len(judged),
        "accuracy": asdict(bootstrap_mean((truth == predicted).astype(float))),
        "macro_f1": asdict(score_macro_f1(truth, predicted)),
        "macro_f1_of_the_commonest_label": score_macro_f1(truth, commonest).value,
        "log_loss": float(-np.log(own).mean()),
        "calibration_error": _measure_calibration(confidence, truth == predicted),
        "labels": {name: _judge_label(confusion, label) for label, name in enumerate(judged.names)},
        "confusion": confusion.tolist(),
        "mistakes": [
            {
                "text": judged.texts[number],
                "label": judged.names[truth[number]],
                "predicted": judged.names[predicted[number]],
                "probability": round(float(confidence[number]), 4),
            }
            for number in most_confident
        ],
    }


def _judge_label(confusion: np.ndarray, label: int) -> dict[str, float]:
    hits, said, true = confusion[label, label], confusion[:, label].sum(), confusion[label].sum()
    return {
        "texts": int(true),
        "precision": float(hits / max(said, 1)),
        "recall": float(hits / max(true, 1)),
        "f1": float(2 * hits / max(said + true, 1)),
    }


def _measure_calibration(confidence: np.ndarray, right: np.ndarray) -> float:
    """Returns the expected calibration error: the mean distance of confidence from accuracy, over bins."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(sums).sum() / len(confidence))


def write_card(name: str, head: Head, described: dict[str, Any]) -> str:
    """Returns the README.md of a head."""
    figures = described["test"]
    lines = [
        f"# {name}",
        "",
        f"Tells {len(head.labels)} labels apart: {', '.join(map(_escape, head.labels))}. Version `{head.version}`, "
        f"for the vectors of `{head.encoder.model}` with the fingerprint `{head.encoder.fingerprint}`.",
        "",
        "```sh",
        described["serve"],
        f"""curl -s 127.0.0.1:8000/classify -d '{{"texts": ["草"], "heads": ["{name}"]}}'""",
        "```",
        "",
        f"Trained on {described['learned']:,} texts; {described['copies']:,} copies and "
        f"{described['contradictions']:,} texts with contradictory labels were left out. Judged on "
        f"{figures['texts']:,} texts that it had not seen:",
        "",
        *align([
            ("", "value", "95 % interval"),
            *(_row(figure, figures[figure.replace(" ", "_").lower()]) for figure in ("Macro F1", "Accuracy")),
            ("Macro F1 of the commonest label", f"{figures['macro_f1_of_the_commonest_label']:.3f}", ""),
            ("Calibration error", f"{figures['calibration_error']:.3f}", ""),
        ]),
        "",
        *align([
            ("label", "texts", "precision", "recall", "F1", *(f"as {_escape(label)}" for label in head.labels)),
            *(
                (
                    _escape(label),
                    f"{judged['texts']:,}",
                    *(f"{judged[figure]:.3f}" for figure in ("precision", "recall", "f1")),
                    *(f"{count:,}" for count in counts),
                )
                for (label, judged), counts in zip(figures["labels"].items(), figures["confusion"], strict=True)
            ),
        ]),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def summarize(output: Path, head: Head, described: dict[str, Any]) -> str:
    """Returns the line that the command prints."""
    figures = described["test"]
    macro_f1 = Mean(**figures["macro_f1"])
    return (
        f"{output}: version {head.version}, macro F1 {macro_f1.value:.3f} ({macro_f1.low:.3f}–{macro_f1.high:.3f}) on "
        f"{figures['texts']:,} texts that it had not seen; serve it with\n  {described['serve']}"
    )


def _row(name: str, mean: dict[str, float]) -> tuple[str, str, str]:
    return name, f"{mean['value']:.3f}", f"{mean['low']:.3f}–{mean['high']:.3f}"


def _escape(text: str) -> str:
    return text.translate(ESCAPES)
