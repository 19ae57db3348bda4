"""Every benchmark starts and says what it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = {"arithmetic.py", "material.py"}  # what several of them import
NAMES = sorted({path.name for path in BENCHMARKS.glob("*.py")} - SHARED)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_explains_itself(name: str) -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / name, "--help"], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert name in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
