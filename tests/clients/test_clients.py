"""Clients of others get vectors of length 1 from a real gateway as they are, and show why a text was refused."""

from __future__ import annotations

import json

import numpy as np
from clients.programs import needs_clients, run_program
from processes import serving


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
