"""Handles SIGTERM and SIGINT as requests to stop after the current step.

A machine that is about to be preempted (a spot TPU, a pod) sends SIGTERM, sometimes twice, and Ctrl-C in a terminal
reaches both `make` and its child, which then gets a second signal from `make`. None of them may interrupt the writing
of a checkpoint, or the exit after it, whose status tells the caller how the run ended.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

PATIENCE_S = 2.0


class StopSignal:
    """A context manager in which signals only set `received`; a second Ctrl-C after PATIENCE_S interrupts at once.

    After the block the previous handlers are restored; repetitions of the first signal are still ignored.
    """

    def __enter__(self) -> StopSignal:
        self.received = False
        self._first = 0.0
        self._is_over = False
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        if not self.received:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._first = True, now
        elif now - self._first <= PATIENCE_S:
            return
        elif self._is_over:
            self._restore()
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
