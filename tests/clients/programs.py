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
    return _run(str(HERE / name), *arguments, text=text, directory=directory)


def run_code(code: str, *, directory: Path) -> str:
    return _run("-c", code, directory=directory)


def _run(*arguments: str, text: str = "", directory: Path) -> str:
    settings = {"PYTHONPATH": "", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [str(Path(PYTHON).absolute()), *arguments],
        env={**os.environ, **settings},
        cwd=directory,
        input=text,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout
