"""Vectors are those of sentence-transformers: of our model there, and of its models here.

Texts are those of the frozen vectors, or the lines of the file TEXTS.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import numpy as np
from clients.programs import needs_clients, run_program
from huggingface_layouts import LAYOUTS, TEXTS, make
from processes import ROOT

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from training.bert.export import export

BUNDLED = ROOT / "models/danmaku-bert-mini"
FROZEN = ROOT / "tests/data/huggingface_vectors.json"


@needs_clients
def test_vectors_are_the_same_there_and_here(tmp_path: Path) -> None:
    file = os.environ.get("TEXTS")
    texts = Path(file).read_text(encoding="utf-8").splitlines() if file else TEXTS
    here = {layout: make(tmp_path / layout, layout) for layout in LAYOUTS} | {"bundled": BUNDLED}
    there = here | {"bundled": export(None, tmp_path / "bundled", model=BUNDLED, format="huggingface")}
    given = run_program(
        "sentence_vectors.py", *(f"{name}={path}" for name, path in there.items()), text=json.dumps(texts)
    )
    theirs = json.loads(given)["vectors"]

    for name, path in here.items():
        with closing(OnnxEncoder.open(path, EncoderOptions(), threads=1)) as encoder:
            ours = np.concatenate(
                [
                    encoder.encode_now(encoder.inputs.prepare_texts(texts[start : start + 64]))
                    for start in range(0, len(texts), 64)
                ]
            )
        difference = np.abs(ours - theirs[name]).max()
        print(f"{name}: {len(texts)} texts, largest difference {difference:.1e}")
        assert difference <= 1e-5
    if not file:
        frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
        for layout in LAYOUTS:  # print `given` to renew the file
            np.testing.assert_allclose(frozen["vectors"][layout], theirs[layout], atol=1e-6)
