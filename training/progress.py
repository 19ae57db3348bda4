"""How long work shows that it is alive: a line with rate and time left, at most every few seconds."""

from __future__ import annotations

import sys
import time


class Progress:
    """Prints `what: done/total unit, rate, time left` to stderr: in place, or a line a minute in a file."""

    def __init__(self, what: str, total: int, unit: str, *, done: int = 0) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._first = done
        self._interval_s = 1.0 if sys.stderr.isatty() else 60.0
        self._started = self._shown = time.monotonic()

    def update(self, done: int, extra: str = "") -> None:
        now = time.monotonic()
        if now - self._shown < self._interval_s and done < self._total:
            return
        self._shown = now
        rate = (done - self._first) / max(1e-9, now - self._started)
        left = (self._total - done) / rate if rate else float("inf")
        line = f"{self._what}: {done:,}/{self._total:,} {self._unit}, {rate:,.1f}/s, {_clock(left)} left{extra}"
        end = "\r" if sys.stderr.isatty() and done < self._total else "\n"
        print(line.ljust(100), end=end, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
