"""The recipe's plain text: one danmaku a line, a blank line between documents, any number of them in a file.

Documents are known by their number. It is what a `.txt` file is taken for that is nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.corpus.readers.base import TOO_LONG, Reader, ReaderSettings, Row, lines_of, name_of


def recognises(head: str) -> bool:
    return False  # any text could be it: the suffix decides


def rows(path: Path, settings: ReaderSettings) -> Iterator[Row]:
    number, is_inside = 0, False
    for line in lines_of(path):
        if line is None:
            yield TOO_LONG
        elif text := line.strip():
            number += not is_inside
            is_inside = True
            yield Row(text, document=f"{name_of(path)}#{number}")
        else:
            is_inside = False


READER = Reader("text", (".txt",), recognises, rows)
