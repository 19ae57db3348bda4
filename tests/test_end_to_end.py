"""The whole pipeline with the commands that users type: recorded danmaku in, ranked danmaku out."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from processes import serving

ROOT = Path(__file__).parents[1]


def danmaku_train(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "training.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_recorded_danmaku_to_ranked_danmaku(tmp_path: Path) -> None:
    """clean → examples → 20 steps → evaluate → export → serve → /embed → /similar."""
    corpus, workdir, model = tmp_path / "corpus", tmp_path / "run", tmp_path / "models" / "tiny"
    danmaku_train(
        "clean", "--input", "tests/data/danmaku", "--output", corpus, "--vocab-size", "300", "--heldout", "0.2"
    )
    danmaku_train("examples", "--input", corpus, "--output", workdir / "examples", "--max-seq-length", "32")
    danmaku_train("train", "training/configs/tiny.toml", "--workdir", workdir)
    danmaku_train("export", "--workdir", workdir, "--output", model)
    numbers = tmp_path / "numbers.json"
    danmaku_train(
        *("evaluate", "--model", model, "--corpus", corpus / "train.txt", "--corpus", corpus / "heldout.txt"),
        *("--json", numbers),
    )

    trained, heldout = json.loads(numbers.read_text(encoding="utf-8"))
    assert trained["masked_lm_loss"] < math.log(300) - 0.1  # it knows more than how many tokens there are
    assert heldout["examples"] > 0
    lines = [line for line in (corpus / "train.txt").read_text(encoding="utf-8").split("\n") if line][:20]
    with serving(model=f"onnx://{shutil.move(model, tmp_path / 'moved')}") as (client, _):  # a model is a folder
        embedded = client.post("/embed", json={"texts": lines, "normalize": True}).json()
        similar = client.post("/similar", json={"query": lines[0], "candidates": lines}).json()

    vectors = np.array(embedded["embeddings"], np.float32)
    assert (embedded["model"], vectors.shape, embedded["errors"]) == ("moved", (len(lines), 32), [])
    matches = similar["results"][0]["matches"]
    assert matches[0]["text"] == lines[0]
    assert np.allclose([match["score"] for match in matches], np.sort(vectors @ vectors[0])[::-1], atol=1e-5)
