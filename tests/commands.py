"""The `danmaku` command in this process, which saves the second of processor time that a process takes to start."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from unittest.mock import patch

from processes import ROOT

from service.cli import main


def danmaku(*arguments: object, text: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as a process of its own would, with `text` as its standard input and environment variables."""
    command = [str(argument) for argument in arguments]
    printed, complained = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(complained),
        patch("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")),
        patch.dict(os.environ, settings),
    ):
        try:
            status = main(command)
        except SystemExit as end:  # argparse's
            status = int(end.code or 0)
    return subprocess.CompletedProcess(command, status, printed.getvalue(), complained.getvalue())
