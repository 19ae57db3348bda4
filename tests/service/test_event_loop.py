"""The event loop of commands, with uvloop and without, and its signal handlers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
import uvloop

from service.event_loop import handle_signal, run_until_complete


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_the_loop_is_uvloops_if_it_is_installed() -> None:
    assert isinstance(run_until_complete(running_loop()), uvloop.Loop)


def test_the_loop_is_asyncios_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows it is not the default one, because ZMQ has to wait for file descriptors."""
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert isinstance(run_until_complete(running_loop()), asyncio.SelectorEventLoop)


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_a_signal_handler_can_be_removed(has_uvloop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)

    async def interrupted() -> None:
        came = asyncio.Event()
        undo = handle_signal(signal.SIGINT, came.set)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(came.wait(), timeout=10)
        undo()

    run_until_complete(interrupted())
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_coroutines_exception_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        run_until_complete(fail())
