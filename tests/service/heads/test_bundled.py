"""The bundled head belongs to the bundled model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import serving

HEAD = Path("models/danmaku-bert-mini/heads/question")
ASKED = ["这是什么歌", "为什么这么菜", "你们是怎么知道的"]
SAID = ["晚安", "哈哈哈", "太好听了"]


@pytest.fixture(scope="module")
def gateway() -> Iterator[httpx.Client]:
    with serving("--heads", str(HEAD), model="onnx://models/danmaku-bert-mini") as (client, _):
        yield client


def test_the_bundled_head_tells_questions_without_a_mark_from_other_danmaku(gateway: httpx.Client) -> None:
    answer = gateway.post("/classify", json={"texts": ASKED + SAID, "heads": ["question"]}).json()

    labels = [result["question"]["label"] for result in answer["results"]]
    assert labels == ["question"] * len(ASKED) + ["other"] * len(SAID)
