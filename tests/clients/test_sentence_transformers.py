"""Vectors are those of sentence-transformers and transformers: of our model there, and of its models here.

Texts are those of the frozen vectors, or the lines of the file TEXTS.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from clients.programs import needs_clients, run_program
from huggingface_layouts import LAYOUTS, TEXTS, make
from processes import ROOT
from scipy.stats import spearmanr

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.vectors import unit
from training.bert.export import export

BUNDLED = ROOT / "models/danmaku-bert-mini"
FROZEN = ROOT / "tests/data/huggingface_vectors.json"


def encode(model: Path, texts: list[str]) -> np.ndarray:
    with closing(OnnxEncoder.open(model, EncoderOptions(), threads=1)) as encoder:
        parts = [texts[start : start + 64] for start in range(0, len(texts), 64)]
        return np.concatenate([encoder.encode_now(encoder.inputs.prepare_texts(part)) for part in parts])


@needs_clients
def test_vectors_are_the_same_there_and_here(tmp_path: Path) -> None:
    file = os.environ.get("TEXTS")
    texts = Path(file).read_text(encoding="utf-8").splitlines() if file else TEXTS
    here = {layout: make(tmp_path / layout, layout) for layout in LAYOUTS} | {"bundled": BUNDLED}
    there = here | {"bundled": export(None, tmp_path / "bundled", model=BUNDLED, layout="huggingface")}
    given = run_program(
        "sentence_vectors.py", *(f"{name}={path}" for name, path in there.items()), text=json.dumps(texts)
    )
    theirs = json.loads(given)["vectors"]
    alone = json.loads(run_program("transformers_vectors.py", str(there["bundled"]), text=json.dumps(texts)))

    for name, path in [*here.items(), ("bundled, by transformers alone", BUNDLED)]:
        ours = encode(path, texts)
        difference = np.abs(ours - theirs.get(name, alone)).max()
        print(f"{name}: {len(texts)} texts, largest difference {difference:.1e}")
        assert difference <= 1e-5
    if not file:
        frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
        for layout in LAYOUTS:  # print `given` to renew the file
            np.testing.assert_allclose(frozen["vectors"][layout], theirs[layout], atol=1e-6)


@needs_clients
def test_mteb_gives_the_score_that_our_vectors_have(tmp_path: Path) -> None:
    """Its task LCQMC gives our correlation, on the pairs of the model card or of the file PAIRS (text, text, score)."""
    file = os.environ.get("PAIRS")
    if file:
        rows = [line.split("\t") for line in Path(file).read_text(encoding="utf-8").splitlines()]
    else:
        lines = (ROOT / "training/evaluation/variants.tsv").read_text(encoding="utf-8").splitlines()
        pairs = [line.split("\t")[:2] for line in lines if not line.startswith("#")]
        rows = [[one, other, "1"] for one, other in pairs]
        rows += [[one, other, "0"] for (one, _), (_, other) in zip(pairs, pairs[7:], strict=False)]
    data = tmp_path / "data"
    data.mkdir()
    with (data / "test.jsonl").open("w", encoding="utf-8") as task:
        for one, other, score in rows:
            task.write(json.dumps({"sentence1": one, "sentence2": other, "score": int(score)}) + "\n")
    model = export(None, tmp_path / "model", model=BUNDLED, layout="huggingface")

    theirs = float(run_program("mteb_task.py", str(model), str(data), directory=tmp_path))

    ones, others = (unit(encode(BUNDLED, [row[side] for row in rows])) for side in (0, 1))
    ours = spearmanr((ones * others).sum(axis=1), [int(row[2]) for row in rows])[0]
    print(f"{len(rows)} pairs: mteb {theirs:.4f}, our vectors {ours:.4f}")
    assert theirs == pytest.approx(ours, abs=1e-3)  # texts that read alike have the cosine 1, but for rounding
