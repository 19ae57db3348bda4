"""Trains a head from a file of labelled texts and writes its folder; `danmaku-train classify`.

A fifth of the texts, or the file of --test, is held out for evaluation. A head on frozen vectors is evaluated after it
learned from the rest; the head that is written learns from all texts, with the same settings. A fine-tuned model is
written as it was evaluated, because tuning it again takes minutes and may give another result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.heads.folder import check_replaceable, write_head
from service.heads.head import Encoder, Head
from training.evaluation.models import embed
from training.heads import linear
from training.heads.report import report, summarize, write_card
from training.heads.texts import LabelledTexts, check_learnable, read_labelled

TEST_SHARE = 0.2


@dataclass(frozen=True)
class TunedHead:
    """A head on the vectors of a model that was fine-tuned for this head."""

    head: Head
    scores: np.ndarray  # of the held-out texts [n, labels]
    how: dict[str, Any]  # for report.json


def read_split(path: Path, test: Path | None) -> tuple[LabelledTexts, LabelledTexts, LabelledTexts]:
    """Returns the texts for the final head, for the evaluated head, and for evaluation. Raises ValueError."""
    texts = read_labelled(path)
    check_learnable(texts, path)
    if test is None:
        return (texts, *texts.split(TEST_SHARE, "test"))
    judged = read_labelled(test, texts.names).without(texts)
    if not len(judged):
        raise ValueError(f"invalid {test}: all of its texts are also in {path}; expected different texts")
    return texts, texts, judged


def train_linear_head(
    path: Path, model: Path, output: Path, *, test: Path | None, options: EncoderOptions, class_weight: str | None
) -> str:
    """Writes the folder of a head on frozen vectors; returns a summary. Raises ValueError, OSError or ModelError."""
    check_replaceable(output)
    texts, learned, judged = read_split(path, test)
    encoder = describe_encoder(model, options)
    vectors_of = embed_once(model, [texts, judged], options)
    choice = linear.choose(learned, vectors_of(learned), class_weight)
    head = linear.train(learned, vectors_of(learned), encoder, choice, class_weight)
    figures = report(judged, head.score(judged.texts, vectors_of(judged)))
    if learned is not texts:
        head = linear.train(texts, vectors_of(texts), encoder, choice, class_weight)
    described = describe(texts, output, model, options, figures, kind="linear", **asdict(choice))
    write_head(output, head, described, write_card(output.resolve().name, head, described))
    return summarize(output, head, described)


def train_tuned_head(
    path: Path,
    model: Path,
    output: Path,
    *,
    workdir: Path,
    test: Path | None,
    options: EncoderOptions,
    class_weight: str | None,
    seed: int,
) -> str | None:
    """Fine-tunes a model in `workdir`, and writes its directory with the head in it; returns a summary.

    Returns None if a signal stopped it; the same call resumes it. Raises as `train_linear_head` does.
    """
    from training.bert import export

    export.check_replaceable(output, is_file=False)
    texts, learned, judged = read_split(path, test)
    found = tune_head(learned, judged, model, output, workdir, options, class_weight, seed)
    if found is None:
        return None
    folder = output / "heads" / output.resolve().name
    figures = report(judged, found.scores)
    described = describe(texts, folder, output, options, figures, kind="tuned", **found.how)
    write_head(folder, found.head, described, write_card(folder.name, found.head, described))
    return summarize(folder, found.head, described)


def tune_head(
    learned: LabelledTexts,
    judged: LabelledTexts,
    model: Path,
    output: Path,
    workdir: Path,
    options: EncoderOptions,
    class_weight: str | None,
    seed: int,
) -> TunedHead | None:
    """Fine-tunes a model, exports it to `output`, and trains a head on its vectors; None if a signal stopped it."""
    from training.bert import export
    from training.heads.tuning import tune  # which needs TensorFlow

    tuned = tune(learned, model, workdir, options, class_weight, seed)
    if tuned is None:
        return None
    export.export(tuned.workdir, output, step=tuned.step)
    vectors_of = embed_once(output, [learned, judged], options)
    choice = linear.choose(learned, vectors_of(learned), class_weight, tuned.held)
    head = linear.train(learned, vectors_of(learned), describe_encoder(output, options), choice, class_weight)
    how = {"learning_rate": tuned.rate, "step": tuned.step, "tuned": tuned.tried, **asdict(choice)}
    return TunedHead(head, head.score(judged.texts, vectors_of(judged)), {"learned": len(learned), **how})


def embed_once(
    model: Path, parts: Sequence[LabelledTexts], options: EncoderOptions
) -> Callable[[LabelledTexts], np.ndarray]:
    """Returns a function that looks up the vectors [n, dim] of texts in one of the parts."""
    known = list(dict.fromkeys(text for part in parts for text in part.texts))
    place_of = {text: place for place, text in enumerate(known)}
    vectors = embed(model, known, options)
    return lambda part: vectors[[place_of[text] for text in part.texts]]


def describe_encoder(model: Path, options: EncoderOptions) -> Encoder:
    with closing(OnnxEncoder.open(model, options, threads=1)) as opened:
        described = opened.model
    return Encoder(described.name, described.fingerprint, described.pooling_layer, described.pooling_strategy)


def describe(
    texts: LabelledTexts,
    output: Path,
    model: Path,
    options: EncoderOptions,
    figures: dict[str, Any],
    **how: Any,
) -> dict[str, Any]:
    """Returns the content of report.json."""
    flags = [f"--encoder onnx://{model}", f"--heads {output}"]
    if options.pooling_layer is not None:
        flags.insert(1, f"--pooling-layer {' '.join(map(str, options.pooling_layer))}")
    return {
        "learned": len(texts),
        "copies": texts.copies,
        "contradictions": texts.contradictions,
        **how,
        "serve": f"danmaku serve {' '.join(flags)}",
        "test": figures,
    }
