"""CSV as the commands write it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def to_csv(rows: Iterable[Sequence[object]]) -> bytes:
    """Returns rows as CSV in UTF-8.

    A carriage return becomes a space: before Python 3.13, `csv` does not quote it, and readers end the row there.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [cell.replace("\r", " ") if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    return text.getvalue().encode("utf-8", "replace")
