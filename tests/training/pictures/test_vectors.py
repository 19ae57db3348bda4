"""A directory, a gateway that serves it and a worker that serves it give the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from processes import serving, working

from training.pictures.vectors import vectors_of

TEXTS = ["草", "awsl", "哈哈哈哈"]


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> np.ndarray:
    found = vectors_of(str(tiny_model), TEXTS)
    assert found.model == tiny_model.name and found.values.shape == (3, 16)
    return found.values


def test_a_gateway_returns_the_vectors_of_its_model(tiny_model: Path, expected: np.ndarray) -> None:
    """Its address may contain the route; a word that it cannot spell has no vector."""
    with serving(model=f"onnx://{tiny_model}") as (client, _):
        url = str(client.base_url)
        for given in (url, f"{url}/embed"):
            found = vectors_of(given, [*TEXTS, "龘"])
            assert found.model == tiny_model.name
            np.testing.assert_allclose(found.values[:3], expected, atol=1e-5)
            assert np.isnan(found.values[3]).all()
        with pytest.raises(OSError, match=r"/nowhere/info"):
            vectors_of(f"{url}/nowhere", TEXTS)


def test_a_worker_returns_the_vectors_of_its_model(tiny_model: Path, expected: np.ndarray) -> None:
    """Any server of the protocol works; its model has the name of its folder."""
    with working(tiny_model, "-max_seq_len", "16") as worker:
        found = vectors_of(worker.url, TEXTS)
    assert found.model == tiny_model.name
    np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_a_word_without_a_known_character_has_no_vector(tiny_model: Path, expected: np.ndarray) -> None:
    """All such words would have the same; a word longer than the model accepts is cut."""
    found = vectors_of(str(tiny_model), [*TEXTS, "龘", "草" * 100]).values
    np.testing.assert_allclose(found[:3], expected, atol=1e-5)
    assert np.isnan(found[3]).all() and np.isfinite(found[4]).all()


def test_a_source_that_does_not_answer_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot reach http://127.0.0.1:9/info"):
        vectors_of("http://127.0.0.1:9", TEXTS, timeout_s=0.3)
    with pytest.raises(OSError, match=r"no vectors from bert://127.0.0.1:9:10 \(.+\); expected a worker"):
        vectors_of("bert://127.0.0.1:9:10", TEXTS, timeout_s=0.3)
    with pytest.raises(ValueError, match=r"'bert://a:b' is no worker|invalid .*'bert://a:b'"):
        vectors_of("bert://a:b", TEXTS)
