"""Maps a function over tasks in any number of processes, with the results in the order of the tasks.

Processes are spawned, not forked, because the caller may have threads (TensorFlow does). If a worker is killed, for its
memory for example, the caller gets an error instead of waiting forever. Workers end with the process that started them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
_function: Callable[[Any], Any]  # in a worker: the function that it applies to tasks


def in_order(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Generator[Result, None, None]:
    """Yields the results as `map` does, computed by up to `jobs` processes. `function` is pickled once per process.

    Raises OSError if a process is killed.
    """
    jobs = min(jobs, len(tasks))
    if jobs < 2:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(function,))
    try:
        yield from executor.map(_call, tasks)
    except BrokenProcessPool:
        raise OSError(f"one of {jobs} processes was killed, probably for lack of memory; try a lower --jobs") from None
    finally:
        executor.shutdown(cancel_futures=True)


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is already a process per core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _call(task: Any) -> Any:
    return _function(task)
