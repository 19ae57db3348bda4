"""SIGTERM, SIGINT: asks to stop, and lets what runs come to a good end.

A machine that is about to be taken away (a spot TPU, a pod) sends SIGTERM, some send it twice, and Ctrl-C in a
terminal reaches `make` and its child, which then hears from `make` too. None of them may cut a checkpoint short, or the
end that follows it: whoever started the run goes by its exit status.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

PATIENCE_S = 2.0


class StopSignal:
    """Within the block signals only set `received`; but who presses Ctrl-C again, later, is obeyed at once.

    After it, signals are what they were before; those that repeat the first one are still taken for it.
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
