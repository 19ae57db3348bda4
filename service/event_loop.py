"""Runs a command's coroutine on uvloop if it is available, otherwise on asyncio, as on Windows."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_complete(work: Coroutine[Any, Any, T]) -> T:
    """Returns the coroutine's result; raises what it raises."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(work)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ModuleNotFoundError:
        # ZMQ waits for file descriptors, which the default loop of Windows cannot do.
        return asyncio.SelectorEventLoop()
    return uvloop.new_event_loop()


def handle_signal(number: signal.Signals, handler: Callable[[], object]) -> Callable[[], object]:
    """Calls `handler` in the running loop when the signal arrives. Returns a function that undoes this."""
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":  # its loops do not watch signals
        before = signal.signal(number, lambda *_: loop.call_soon_threadsafe(handler))
        return lambda: signal.signal(number, before)
    loop.add_signal_handler(number, handler)
    return lambda: loop.remove_signal_handler(number)
