"""Several processes give the results of one, and fail properly when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from training.corpus.parallel import in_order


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_tasks(jobs: int) -> None:
    assert list(in_order(abs, range(-20, 0), jobs)) == list(range(20, 0, -1))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_is_raised_in_place_of_its_result(jobs: int) -> None:
    results = in_order(int, ["1", "x", "3"], jobs)
    assert next(results) == 1
    with pytest.raises(ValueError, match="'x'"):
        next(results)


def test_a_worker_that_is_killed_is_an_error_that_says_what_to_try() -> None:
    """The caller does not wait forever."""
    with pytest.raises(OSError, match="one of 2 processes was killed, .* --jobs"):
        list(in_order(os._exit, [1, 1, 1], 2))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_workers_end_with_their_parent() -> None:
    """The parent may be killed without a chance to tell them."""
    program = "import time\nfrom training.corpus.parallel import in_order\nlist(in_order(time.sleep, [100, 100], 2))"
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3]) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        workers = wait_for(lambda: children.read_text().split(), 2)
        time.sleep(0.5)  # they start
        workers = children.read_text().split()
        os.kill(parent.pid, signal.SIGKILL)
    assert wait_for(lambda: [pid for pid in workers if has_ended(pid)], len(workers))


def has_ended(pid: str) -> bool:
    try:
        return "Z (zombie)" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def wait_for(find: Callable[[], list[str]], count: int) -> list[str]:
    """Waits until enough has been found and returns it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if len(found := find()) >= count:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"found {found}")
