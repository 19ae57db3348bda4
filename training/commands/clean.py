"""`danmaku-train clean`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from service.recordings import FORMATS, Options
from training.arguments import add_heldout, add_paths, print_report

NAME = "clean"
HELP = "turn recorded danmaku into plain text and a vocabulary"
EXAMPLE = "clean --input danmaku_dataset recordings --vocab chinese_L-12_H-768_A-12/vocab.txt --output corpus"
NEEDS_TENSORFLOW = False
REFUSED = 1  # exit status: some files could not be read, the others are done
MAX_UNSPELLABLE_SHARE = 0.1  # of the lines; more means that the vocabulary does not fit the corpus


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_paths(parser, "--input", "inputs", "danmaku files or folders, in any mix of formats")
    parser.add_argument("--vocab", type=Path, metavar="FILE", help="vocab.txt of a BERT (default: learn one)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to write train.txt and other files to"
    )
    parser.add_argument(
        "--vocab-size", type=int, default=8000, metavar="N", help="number of tokens to learn (%(default)s)"
    )
    add_heldout(parser, "share of the documents to hold out for evaluation (%(default)s)")
    parser.add_argument(
        "--format", dest="format_name", choices=[*FORMATS], help="format of all files (default: detect each file's)"
    )
    parser.add_argument(
        "--text-column", "--text-field", metavar="NAME|N", help="CSV, JSON: column or field of the text"
    )
    parser.add_argument(
        "--time-column", "--time-field", metavar="NAME|N", help="CSV, JSON: column or field of the time"
    )
    parser.add_argument(
        "--document-field", metavar="NAME", help="JSON: field that names the video or stream (default: the file)"
    )
    parser.add_argument("--encoding", metavar="NAME", help="encoding of all files (default: detect each file's)")
    parser.add_argument("--lenient", action="store_true", help="exit with status 0 even if files were refused")
    parser.add_argument(
        "--session-gap-s",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="live recordings: silence in seconds that ends a document (%(default)s)",
    )
    parser.add_argument(
        "--jobs", type=int, default=_count_cores(), metavar="N", help="number of processes (one per core: %(default)s)"
    )
    parser.add_argument("--shard", metavar="I/N", help="process only part I of N, counted from 0; needs --vocab")


def run(
    *,
    vocab: Path | None,
    shard: str | None,
    text_column: str | None,
    time_column: str | None,
    document_field: str | None,
    encoding: str | None,
    session_gap_s: float,
    lenient: bool,
    **flags: Any,
) -> int:
    from training.corpus.clean import clean
    from training.corpus.files import Shard

    settings = Options(
        encoding=encoding,
        text_column=text_column,
        time_column=time_column,
        document_field=document_field,
        session_gap_s=session_gap_s,
    )
    report: Any = clean(vocab=vocab, shard=Shard.parse(shard) if shard else None, settings=settings, **flags)
    print_report(report)
    share = report["dropped"].get("unspellable", 0) / max(1, report["lines_read"])
    if share > MAX_UNSPELLABLE_SHARE:
        advice = "use a larger vocabulary with --vocab" if vocab else "raise --vocab-size"
        print(
            f"danmaku-train clean: warning: {share:.0%} of the lines were dropped because the vocabulary of "
            f"{report['vocab_size']:,} tokens cannot spell them; {advice}",
            file=sys.stderr,
        )
    for kind in ("left_out", "refused"):
        for message in report[f"{kind}_files"]:
            print(f"danmaku-train clean: {kind.replace('_', ' ')}: {message}", file=sys.stderr)
    return REFUSED if report["refused_files"] and not lenient else 0


def _count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
