"""Writes train_log.jsonl, the history of a run: a row every `log_steps` steps, with means over those steps.

A resumed run starts from its checkpoint, so the rows after it are dropped and written again: the file looks as if
the run had never stopped. TensorBoard gets the same rows.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from training.bert.summaries import Summaries
from training.files import write_text


class TrainingLog:
    """The log of a run, starting at `step`."""

    def __init__(self, path: Path, step: int, log_steps: int) -> None:
        self._path, self._log_steps = path, log_steps
        self._summaries = Summaries(path.parent, step)
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        write_text(path, "".join(row for row in rows if _read_step(row) <= step))
        self._sums: dict[str, float] = {}
        self._steps, self._tokens, self._seconds = 0, 0, 0.0
        self._tokens_per_s = 0.0

    def add(self, step: int, metrics: dict[str, float], *, tokens: int, seconds: float) -> float:
        """Adds the metrics and the time of one step; returns the rate of the last row, in tokens/s."""
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in metrics.items()}
        self._steps += 1
        self._tokens += tokens
        self._seconds += seconds
        if step % self._log_steps:
            return self._tokens_per_s or self._tokens / self._seconds
        self._tokens_per_s = self._tokens / self._seconds
        means = {name: total / self._steps for name, total in self._sums.items()}
        row = {"step": step, **means, "tokens_per_s": round(self._tokens_per_s)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._summaries.add(step, {**means, "tokens_per_s": self._tokens_per_s})
        self._sums, self._steps, self._tokens, self._seconds = {}, 0, 0, 0.0
        return self._tokens_per_s


def _read_step(row: str) -> float:
    """Returns the step of a row; infinity for a row that a crash truncated, so that it is dropped."""
    try:
        return float(json.loads(row)["step"])
    except ValueError:
        return math.inf
