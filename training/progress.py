"""Shows the progress of long work with tqdm: a bar on a terminal, a line a minute in a file or container's log."""

from __future__ import annotations

import sys

from tqdm import tqdm

LINE = "{desc}: {n_fmt}/{total_fmt}{unit}, {rate_fmt}, {remaining} left{postfix}\n"


def open_progress(description: str, total: int, unit: str, *, done: int = 0) -> tqdm[None]:
    """Returns a tqdm on standard error, to be used as a context manager; `update(n)` adds n to the progress."""
    is_terminal = sys.stderr.isatty()
    interval_s = 1.0 if is_terminal else 60.0
    return tqdm(
        desc=description,
        total=total,
        initial=done,
        unit=f" {unit}",
        mininterval=interval_s,
        maxinterval=interval_s,
        dynamic_ncols=True,
        bar_format=None if is_terminal else LINE,
    )
