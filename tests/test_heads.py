"""From a user's file to a served head in three commands, as docs/heads.md shows them; and the bundled head."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from labelled import write_labelled
from processes import ROOT, serving

from service.heads.folder import read_head
from training.heads.classify import describe_encoder

BUNDLED = ROOT / "models/danmaku-bert-mini"


def test_three_commands_from_a_file_to_a_label(tiny_model: Path, tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "labelled.csv")
    command = [sys.executable, "-m", "training.cli", "classify", "--input", str(path), "--model", str(tiny_model)]
    subprocess.run([*command, "--output", str(tmp_path / "question")], cwd=ROOT, check=True)

    with serving("--heads", str(tmp_path / "question"), model=f"onnx://{tiny_model}") as (http, _):
        body = http.post("/classify", json={"texts": ["他是谁", "晚安哈哈"]}).raise_for_status().json()

    assert [result["question"]["label"] for result in body["results"]] == ["question", "other"]
    assert body["heads"] == {"question": read_head(tmp_path / "question").version}


def test_the_bundled_heads_belong_to_the_bundled_model() -> None:
    from service.encoders.options import EncoderOptions

    paths = [path.parent for path in BUNDLED.glob("heads/*/head.json")]
    if not paths:
        pytest.skip("no head is bundled")
    encoder = describe_encoder(BUNDLED, EncoderOptions())
    assert {path: read_head(path).encoder.fingerprint for path in paths} == dict.fromkeys(paths, encoder.fingerprint), (
        "make question-head CORPUS=… trains them again"
    )
