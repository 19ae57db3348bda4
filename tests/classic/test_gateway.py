"""A gateway in front of a genuine bert-serving-server 1.10: it returns that server's vectors and protects it.

make classic
DANMAKU_CLASSIC_PYTHON=.venv-classic/bin/python .venv/bin/pytest tests/classic/test_gateway.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import RunningWorker, genuine, serving

PYTHON = os.environ.get("DANMAKU_CLASSIC_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="DANMAKU_CLASSIC_PYTHON names no Python of a `make classic`")

FLAGS = ("-ckpt_name", "model.ckpt-1", "-max_seq_len", "12")
TEXTS = ["草", "AWSL", "阿夸，晚安", "哈" * 30, "aqua ||| 清楚", "|||", "233?"]


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[RunningWorker]:
    with genuine(PYTHON, tiny_model, *FLAGS) as server:
        yield server


def test_vectors_are_what_the_genuine_client_gets(server: RunningWorker) -> None:
    """Bars with spaces between them are the same text for the model, but not a pair of sentences for the server."""
    with server.client(check_length=False) as client:
        expected = client.encode([text.replace("|||", "| | |") for text in TEXTS])
    with serving(model=server.url) as (gateway, _):
        answer = gateway.post("/embed", json=[*TEXTS, "", " "]).json()
        info = gateway.get("/info").json()

    np.testing.assert_allclose(np.array(answer["embeddings"][: len(TEXTS)], np.float32), expected, atol=1e-6)
    assert answer["embeddings"][len(TEXTS) :] == [None, None]
    assert answer["truncated"] == [3]
    assert (info["model"], info["dim"], info["max_seq_len"]) == ("tiny", 16, 12)
    assert [worker["ready"] for worker in info["workers"]] == [True]


def test_concurrent_requests_share_a_connection(server: RunningWorker) -> None:
    texts = [
        f"{first}{second}{third}" for first in "草哈阿夸" for second in "晚安好来" for third in "了我死谁你他她的笑可"
    ]
    with server.client() as client:
        expected = client.encode(texts)
    with serving("--max-batch-tokens", "64", model=server.url) as (gateway, _):
        answer = gateway.post("/embed", json=texts).json()

    np.testing.assert_allclose(np.array(answer["embeddings"], np.float32), expected, atol=1e-5)
