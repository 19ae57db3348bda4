"""SIGTERM, SIGINT: asks to stop, and lets what runs come to a good end.

A machine that is about to be taken away (a spot TPU, a pod) sends SIGTERM, some send it twice, and Ctrl-C in a
terminal reaches `make` and its child, which then hears from `make` too. None of them may cut a checkpoint short.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

PATIENCE_S = 2.0


class StopSignal:
    """Within the block signals only set `received`; but who presses Ctrl-C again, later, is obeyed at once."""

    def __enter__(self) -> StopSignal:
        self.received = False
        self._first = 0.0
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._first = True, now
        elif number == signal.SIGINT and now - self._first > PATIENCE_S:
            raise KeyboardInterrupt
