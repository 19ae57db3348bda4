"""The tokenizer cuts texts as google-research/bert does: ids that mean the same to both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parents[2] / "data/google_tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "ids"), GOLDEN["ids"])
def test_ids_are_googles(text: str, ids: list[int]) -> None:
    """Written by bert-serving-server 1.10: `python tests/classic/reference.py tokens DIRECTORY`."""
    assert Tokenizer(GOLDEN["vocab"]).ids([text]) == [ids]
