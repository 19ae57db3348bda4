"""Ways to run and wait for asyncio work that several parts share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from service.errors import Overloaded

T = TypeVar("T")


async def run_until_first(*work: Coroutine[Any, Any, object]) -> None:
    """Runs all of `work` until one has finished, cancels the others, and raises what the finished one raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def run_in_thread_if(is_long: bool, work: Callable[[], T]) -> T:
    """Runs work that takes long in a thread, so that it does not hold up the event loop, and other work right here."""
    return await asyncio.to_thread(work) if is_long else work()


async def retry_overloaded(work: Callable[[], Awaitable[T]]) -> T:
    """Repeats `work` until the queue has room for it: for streams and other bulk work, which can wait."""
    while True:
        try:
            return await work()
        except Overloaded as overloaded:
            await asyncio.sleep(overloaded.retry_after_s or 1)
