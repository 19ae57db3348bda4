"""A run that gets a signal finishes its step and saves, however often the signal is repeated."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
RUN = """
import os, signal, sys, time
from training.bert import signals

signals.PATIENCE_S = float(sys.argv[1])
with signals.StopSignal() as stop:
    for _ in range(int(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGTERM)
print("at its end", stop.received)
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("patience_s", "times", "status", "printed"),
    [
        (60, 1, 3, "at its end True\n"),  # once more after the block, as a repetition
        (60, 3, 3, "at its end True\n"),
        (0.1, 1, -signal.SIGTERM, ""),  # much later: a new request
        (60, 0, -signal.SIGTERM, ""),  # nothing was to be repeated
    ],
)
def test_a_repeated_signal_does_not_interrupt_saving(patience_s: float, times: int, status: int, printed: str) -> None:
    command = [sys.executable, "-c", RUN, str(patience_s), str(times)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (status, printed), ended.stderr
