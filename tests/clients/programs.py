"""Runs a program of tests/clients in the environment of `make clients`, which DANMAKU_CLIENTS_PYTHON names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PYTHON = os.environ.get("DANMAKU_CLIENTS_PYTHON", "")
needs_clients = pytest.mark.skipif(not PYTHON, reason="DANMAKU_CLIENTS_PYTHON is not set; `make clients` installs it")


def run_program(name: str, *arguments: str, text: str = "", directory: Path = HERE) -> str:
    """Returns what a program prints."""
    settings = {"PYTHONPATH": "", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [str(Path(PYTHON).absolute()), str(HERE / name), *arguments],
        env={**os.environ, **settings},
        cwd=directory,
        input=text,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout
