"""The tokenizer gives the ids of google-research/bert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parents[2] / "data/google_tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "ids"), GOLDEN["ids"])
def test_ids_equal_googles(text: str, ids: list[int]) -> None:
    """bert-serving-server 1.10 wrote them: `python tests/classic/reference.py tokens DIRECTORY`."""
    assert Tokenizer(GOLDEN["vocab"]).ids([text]) == [ids]
