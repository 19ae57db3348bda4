"""The same vectors come from a directory, from a gateway that serves it and from a worker that serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from processes import serving, working

from training.pictures import vectors as module
from training.pictures.vectors import vectors_of

TEXTS = ["草", "awsl", "哈哈哈哈"]


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> np.ndarray:
    found = vectors_of(str(tiny_model), TEXTS)
    assert found.model == tiny_model.name and found.values.shape == (3, 16)
    return found.values


def test_a_gateway_gives_the_vectors_of_its_model(tiny_model: Path, expected: np.ndarray) -> None:
    """Named by its address, with or without the route; a word that it cannot spell has none."""
    with serving(model=f"onnx://{tiny_model}") as (client, _):
        url = str(client.base_url)
        for given in (url, f"{url}/embed"):
            found = vectors_of(given, [*TEXTS, "龘"])
            assert found.model == tiny_model.name
            np.testing.assert_allclose(found.values[:3], expected, atol=1e-5)
            assert np.isnan(found.values[3]).all()
        with pytest.raises(OSError, match=r"/nowhere/info"):
            vectors_of(f"{url}/nowhere", TEXTS)


def test_a_worker_gives_them(tiny_model: Path, expected: np.ndarray) -> None:
    """Whatever serves bert-as-service's protocol; its model is called as its folder."""
    with working(tiny_model, "-max_seq_len", "16") as worker:
        found = vectors_of(worker.url, TEXTS)
    assert found.model == tiny_model.name
    np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_a_word_without_a_known_character_has_no_vector(tiny_model: Path, expected: np.ndarray) -> None:
    """All such words would have the same; a word longer than the model is cut, for it is only a picture."""
    found = vectors_of(str(tiny_model), [*TEXTS, "龘", "草" * 100]).values
    np.testing.assert_allclose(found[:3], expected, atol=1e-5)
    assert np.isnan(found[3]).all() and np.isfinite(found[4]).all()


def test_a_source_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not waited for without end."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    with pytest.raises(OSError, match=r"cannot reach http://127.0.0.1:9/info"):
        vectors_of("http://127.0.0.1:9", TEXTS)
    with pytest.raises(OSError, match=r"no vectors from bert://127.0.0.1:9:10 \(.+\); expected a worker"):
        vectors_of("bert://127.0.0.1:9:10", TEXTS)
    with pytest.raises(ValueError, match=r"'bert://a:b' is no worker|invalid .*'bert://a:b'"):
        vectors_of("bert://a:b", TEXTS)
