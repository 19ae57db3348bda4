"""Trains a head from a file of labelled texts and writes its folder; `danmaku-train classify`.

A fifth of the texts, or the file of --test, is only judged. The head that is judged learns from the rest; the one that
is written learns from all, with the same settings.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.heads.folder import check_replaceable, write_head
from service.heads.head import Encoder
from training.evaluation.models import embed
from training.heads import linear
from training.heads.report import report, summarize, write_card
from training.heads.texts import LabelledTexts, check_learnable, read_labelled

TEST_SHARE = 0.2


def read_split(path: Path, test: Path | None) -> tuple[LabelledTexts, LabelledTexts, LabelledTexts]:
    """Returns all texts to learn from at last, those to learn from before, and those to judge. Raises ValueError."""
    texts = read_labelled(path)
    check_learnable(texts, path)
    if test is None:
        return (texts, *texts.split(TEST_SHARE, "test"))
    judged = read_labelled(test, texts.names).without(texts)
    if not len(judged):
        raise ValueError(f"invalid {test}: all of its texts are also in {path}; expected other ones")
    return texts, texts, judged


def train_linear_head(
    path: Path, model: Path, output: Path, *, test: Path | None, options: EncoderOptions, class_weight: str | None
) -> str:
    """Writes the folder of a head on frozen vectors; returns a summary. Raises ValueError, OSError or ModelError."""
    check_replaceable(output)
    texts, learned, judged = read_split(path, test)
    encoder = describe_encoder(model, options)
    known = list(dict.fromkeys([*texts.texts, *judged.texts]))
    place_of = {text: place for place, text in enumerate(known)}
    vectors = embed(model, known, options)

    def vectors_of(part: LabelledTexts) -> np.ndarray:
        return vectors[[place_of[text] for text in part.texts]]

    choice = linear.choose(learned, vectors_of(learned), class_weight)
    head = linear.train(learned, vectors_of(learned), encoder, choice, class_weight)
    figures = report(judged, head.score(judged.texts, vectors_of(judged)))
    if learned is not texts:
        head = linear.train(texts, vectors_of(texts), encoder, choice, class_weight)
    described = describe(texts, output, model, options, figures, kind="linear", **asdict(choice))
    write_head(output, head, described, write_card(output.resolve().name, head, described))
    return summarize(output, head, described)


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
