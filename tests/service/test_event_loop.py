"""The loop that commands run on, with uvloop and without, and signals that are handled in it."""

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


def test_it_is_uvloop_s_where_there_is_one() -> None:
    assert isinstance(run_until_complete(running_loop()), uvloop.Loop)


def test_it_is_one_of_asyncio_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can wait for the file descriptors of ZMQ: on Windows, not its default."""
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert isinstance(run_until_complete(running_loop()), asyncio.SelectorEventLoop)


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_a_signal_is_handled_until_that_is_undone(has_uvloop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_the_coroutine_raises_comes_out() -> None:
    async def fail() -> None:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        run_until_complete(fail())
