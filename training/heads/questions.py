"""Makes a labelled file for the bundled head from unlabelled danmaku: questions, by their question mark.

A danmaku that ends with a question mark is a question, any other is not. Then the punctuation is removed from both, so
only the words can decide. The labels are weak: many people ask without a mark, and their questions count as other
danmaku. So even a perfect head would not reach an accuracy of 1 here.

    python -m training.heads.questions danmaku_dataset/ questions.csv
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator
from pathlib import Path

from service.recordings import open_recording
from training.corpus.files import find_sources, hash_of
from training.files import replacing
from training.heads.texts import fold_text
from training.progress import open_progress

MARKS = ("?", "？")
PUNCTUATION = re.compile(r"[\W_]+")
LENGTHS = range(3, 31)  # characters without punctuation
TEXTS = 8000  # per label


def find_questions(paths: list[Path], documents: int) -> Iterator[tuple[str, str]]:
    """Yields texts without punctuation and their labels, equally many of each, from this many recordings."""
    sources = find_sources(paths).sources[:documents]
    found: dict[str, set[bool]] = {}
    spelled: dict[str, str] = {}
    with open_progress("read", len(sources), "files") as progress:
        for source in sources:
            for row in open_recording(source.path).rows():
                text = PUNCTUATION.sub("", row.text or "")
                if len(text) in LENGTHS:
                    key = fold_text(text)
                    found.setdefault(key, set()).add((row.text or "").rstrip().endswith(MARKS))
                    spelled.setdefault(key, text)
            progress.update(1)
    order = sorted(found, key=lambda key: hash_of(f"question {key}"))  # independent of reading order
    parts = [[key for key in order if found[key] == {is_asked}] for is_asked in (False, True)]
    count = min(TEXTS, *map(len, parts))
    for label, part in zip(("other", "question"), parts, strict=True):
        yield from ((spelled[key], label) for key in part[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="recordings, or folders of them")
    parser.add_argument("output", type=Path, metavar="FILE", help="a .csv")
    parser.add_argument("--documents", type=int, default=1500, metavar="N", help="recordings to read (%(default)s)")
    flags = parser.parse_args()
    with replacing(flags.output) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("text", "label"), *find_questions(flags.paths, flags.documents)])


if __name__ == "__main__":
    main()
