"""Runs and awaits asyncio work, for all parts of the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from queue import SimpleQueue
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
    """Runs long work in a thread, so that it does not block the event loop, and other work directly."""
    return await asyncio.to_thread(work) if is_long else work()


class Threads:
    """Threads for short work. A call takes half the time of `loop.run_in_executor`, which makes two futures for it."""

    def __init__(self, count: int, name: str) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"{name}_{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns in one of the threads; raises what it raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def answer(result: T | None, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)  # type: ignore[arg-type]  # None only if `work` returned it
            else:
                done.set_exception(error)

        def call() -> None:
            result, failure = None, None
            try:
                result = work()
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop has been closed: nobody waits
                loop.call_soon_threadsafe(answer, result, failure)

        self._waiting.put(call)
        return await done

    def close(self) -> None:
        """Waits for the started work, and ends the threads."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while call := self._waiting.get():
            call()


async def retry_overloaded(work: Callable[[], Awaitable[T]]) -> T:
    """Repeats `work` until the queue has room for it: for streams and other bulk work, which can wait."""
    while True:
        try:
            return await work()
        except Overloaded as overloaded:
            await asyncio.sleep(overloaded.retry_after_s or 1)
