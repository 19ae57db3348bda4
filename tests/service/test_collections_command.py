"""`danmaku collections`, as processes beside a running gateway."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from processes import ROOT, serving


def danmaku(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "collections", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_collections_are_looked_after_from_a_shell(tiny_model: Path, tmp_path: Path) -> None:
    at = ("--collections", f"sqlite://{tmp_path}/c")
    with serving(*at, model=f"onnx://{tiny_model}") as (http, _):
        url = ("--url", str(http.base_url))
        assert danmaku("create", "room", *url).returncode == 0
        http.post("/collections/room/danmaku", json=["草", "晚安"])
        assert "room\t2 danmaku" in danmaku("list", *url).stdout
        assert danmaku("search", "room", "草", "--top-k", "1", *url).stdout == "1.000\t草\n"
    with serving(*at, "--pooling-strategy", "CLS_TOKEN", model=f"onnx://{tiny_model}") as (http, _):
        url = ("--url", str(http.base_url))
        refused = danmaku("search", "room", "草", *url)
        assert (refused.returncode, "danmaku collections rebuild room" in refused.stderr) == (1, True)
        assert "room: 2 danmaku, 0 of which" in danmaku("rebuild", "room", *url).stdout
        assert danmaku("search", "room", "草", "--top-k", "1", *url).stdout == "1.000\t草\n"
        assert danmaku("drop", "room", *url).returncode == 0
        assert (
            danmaku("drop", "room", *url).stderr == "danmaku collections: 404 not_found: there is no collection room\n"
        )
