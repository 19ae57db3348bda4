"""Clients work as they are with a real gateway or worker, and show why a text was refused: docs/clients.md.

Those of others get vectors of length 1.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from clients.programs import needs_clients, run_code, run_program
from danmaku_client import Client
from not_run import ELSEWHERE
from pages import ROOT, snippets
from processes import serving, working

from training.bert.export import export

BUNDLED = ROOT / "models/danmaku-bert-mini"


@needs_clients
def test_clients_of_others_work_as_they_are() -> None:
    with serving("--access-log", "false") as (http, _):
        url = str(http.base_url).rstrip("/")
        expected = http.post("/embed", json={"texts": ["草", "awsl"], "normalize": True}).json()["embeddings"]
        found = json.loads(run_program("ask.py", url).splitlines()[-1])

    assert len(found) == 7
    for name, answer in found.items():
        np.testing.assert_allclose(answer["vectors"], expected, atol=1e-6, err_msg=name)
        reason = "inputs.1: the ..." if name == "llama_index_tei" else ".1: the text is blank"
        assert reason in answer["error"], name


@needs_clients
def test_a_client_generated_from_the_openapi_document_works(tmp_path: Path) -> None:
    with serving("--collections", "none", "--access-log", "false") as (http, _):
        expected = http.post("/embed", json=["草", "awsl"]).json()["embeddings"]
        found = json.loads(run_program("generated.py", str(http.base_url).rstrip("/"), directory=tmp_path))

    assert (found["vectors"], found["bare"]) == ([*expected, None], expected)
    assert (found["reason"], found["best"]) == ("the text is blank", "草")
    assert "expected either `candidates` or `collection`" in found["refused"]


@needs_clients
def test_the_examples_that_need_packages_of_others_run(tmp_path: Path) -> None:
    export(None, tmp_path / "danmaku-bert-mini", model=BUNDLED, layout="huggingface")
    codes = [code for page in ("docs/clients.md", "docs/models.md") for code in snippets(page)]
    codes = [code for code in codes if any(f"from {package} import" in code for package in ELSEWHERE)]
    assert len(codes) == 7
    with serving("--collections", "none", "--access-log", "false") as (http, _):
        for code in codes:
            run_code(code.replace(":8000", f":{http.base_url.port}"), directory=tmp_path)


def test_our_clients_show_why_a_text_was_refused() -> None:
    with serving("--collections", "none", "--access-log", "false") as (http, _):
        url = str(http.base_url).rstrip("/")
        expected = http.post("/embed", json=["草"]).json()["embeddings"]
        with Client(url) as client:
            found = client.embed(["草", " "])
        command = ["curl", "-s", url, "-d", '{"inputs": ["草", " "]}']
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    np.testing.assert_allclose(found.vectors[:1], expected, atol=1e-6)
    assert [(error.index, error.error) for error in found.errors] == [(1, "the text is blank")]
    assert np.isnan(found.vectors[1]).all()
    assert shown == '{"error":"inputs.1: the text is blank","error_type":"empty_text"}'


def test_the_genuine_bert_client_gets_the_gateway_s_vectors_from_a_worker() -> None:
    """It refuses a blank text itself."""
    with serving("--collections", "none") as (http, _), working(BUNDLED) as worker, worker.client() as client:
        expected = http.post("/embed", json=["草", "awsl"]).json()["embeddings"]

        np.testing.assert_allclose(client.encode(["草", "awsl"]), expected, atol=1e-5)
        with pytest.raises(ValueError, match="must be non-empty string, but element 1 is ' '"):
            client.encode(["草", " "])
