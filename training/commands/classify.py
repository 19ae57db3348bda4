"""`danmaku-train classify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.arguments import STOPPED

NAME = "classify"
HELP = "train a danmaku classifier from labelled texts, for `danmaku serve --heads`"
EXAMPLE = "classify --input labelled.csv --model models/danmaku-bert-mini --output heads/spam"
NEEDS_TENSORFLOW = True  # only for fine-tuning


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        dest="path",
        type=Path,
        required=True,
        metavar="FILE",
        help="CSV, TSV or NDJSON with the columns text and label; at least 4 texts of each label",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("models/danmaku-bert-mini"),
        metavar="DIR",
        help="model whose vectors the classifier reads (%(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write the head to; the head gets the folder's name",
    )
    parser.add_argument(
        "--tune",
        dest="workdir",
        type=Path,
        metavar="DIR",
        help="fine-tune the whole model and keep the run in this folder, so that it can be resumed; --output is then a "
        "model for `danmaku serve --encoder`, with its head in heads/",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="with --tune: seed of the order of texts and of dropout (%(default)s)",
    )
    parser.add_argument(
        "--test",
        type=Path,
        metavar="FILE",
        help="file to evaluate the classifier on (a fifth of the texts of each label)",
    )
    parser.add_argument(
        "--pooling-layer",
        type=int,
        nargs="+",
        metavar="LAYER",
        help="as in `danmaku serve`, which must use the same (the model's own)",
    )
    parser.add_argument(
        "--class-weight",
        choices=("balanced", "none"),
        default="balanced",
        help="balanced: rare labels count as much as others; none: every text counts the same, so rare labels are "
        "predicted rarely (%(default)s)",
    )


def run(
    *,
    path: Path,
    model: Path,
    output: Path,
    workdir: Path | None,
    seed: int,
    test: Path | None,
    pooling_layer: list[int] | None,
    class_weight: str,
) -> int:
    from service.encoders.options import EncoderOptions
    from training.heads.classify import train_linear_head, train_tuned_head

    options = EncoderOptions(pooling_layer=tuple(pooling_layer) if pooling_layer else None)
    weight = None if class_weight == "none" else class_weight
    if workdir is None:
        print(train_linear_head(path, model, output, test=test, options=options, class_weight=weight))
        return 0
    summary = train_tuned_head(
        path, model, output, workdir=workdir, test=test, options=options, class_weight=weight, seed=seed
    )
    print(summary or f"{workdir}: stopped; run the same command to resume")
    return 0 if summary else STOPPED
