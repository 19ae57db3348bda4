"""/v1/embeddings and /v1/models, through OpenAI's own client as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from processes import serving

TEXTS = ["草", "awsl", "哈哈哈", "草"]


@pytest.fixture(scope="module")
def gateway(tiny_model: Path) -> Iterator[httpx.Client]:
    with serving("--max-request-texts", "50", model=f"onnx://{tiny_model}") as (client, _):
        yield client


@pytest.fixture(scope="module")
def genuine(gateway: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=str(gateway.base_url.join("/v1")), api_key="none is needed", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(gateway: httpx.Client) -> np.ndarray:
    return np.array(gateway.post("/embed", json=TEXTS).json()["embeddings"], np.float32)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_a_list_has_the_vectors_of_embed(
    genuine: openai.OpenAI, expected: np.ndarray, options: dict[str, object]
) -> None:
    """In its order, in either format; by default the client asks for base64 and unpacks it."""
    answer = genuine.embeddings.create(model="tiny", input=TEXTS, user="somebody", **options)
    given = [item.embedding for item in answer.data]
    if options == {"encoding_format": "base64"}:  # asked for by hand, it is left as it is
        assert all(isinstance(vector, str) for vector in given)
        given = [item.embedding for item in genuine.embeddings.create(model="tiny", input=TEXTS).data]

    assert np.array_equal(np.array(given, np.float32), expected)
    assert [(item.index, item.object) for item in answer.data] == [(index, "embedding") for index in range(4)]
    assert (answer.model, answer.object) == ("tiny", "list")


def test_a_string_is_a_list_of_one(genuine: openai.OpenAI, expected: np.ndarray) -> None:
    (item,) = genuine.embeddings.create(model="tiny", input="草").data

    assert np.array_equal(np.array(item.embedding, np.float32), expected[0])


@pytest.mark.parametrize("dimensions", [1, 8, 16])
def test_the_first_numbers_may_be_asked_for_alone(
    genuine: openai.OpenAI, expected: np.ndarray, dimensions: int
) -> None:
    (item,) = genuine.embeddings.create(model="tiny", input="草", dimensions=dimensions).data

    assert np.array_equal(np.array(item.embedding, np.float32), expected[0][:dimensions])


def test_usage_counts_what_the_model_reads(genuine: openai.OpenAI) -> None:
    """Without [CLS], [SEP] and what was cut off, and whether it was known or not."""
    for _ in range(2):
        usage = genuine.embeddings.create(model="tiny", input=["草", "kksk awsl", "草" * 100]).usage

        assert (usage.prompt_tokens, usage.total_tokens) == (1 + 3 + 14, 1 + 3 + 14)


@pytest.mark.parametrize(
    ("body", "kind", "error_type", "message"),
    [
        (
            {"input": [1, 2]},
            openai.UnprocessableEntityError,
            "invalid_request",
            "lists of tokens are of another vocabulary",
        ),
        ({"input": [[1, 2], [3]]}, openai.UnprocessableEntityError, "invalid_request", "lists of tokens are of"),
        ({"input": []}, openai.UnprocessableEntityError, "invalid_request", "input: List should have at least 1"),
        (
            {"input": "草", "dimensions": 17},
            openai.UnprocessableEntityError,
            "invalid_request",
            "the 16 of 'tiny'",
        ),
        ({"input": ["草", ""]}, openai.UnprocessableEntityError, "empty_text", "input.1: the text is blank"),
        ({"input": "😂"}, openai.UnprocessableEntityError, "unspellable", "input.0: the vocabulary has none"),
        ({"input": ["草"] * 51}, openai.APIStatusError, "too_large", "51 in one request; expected at most 50"),
        (
            {"input": "草", "model": "text-embedding-3-small"},
            openai.NotFoundError,
            "not_found",
            "invalid model 'text-embedding-3-small': expected 'tiny'",
        ),
    ],
)
def test_what_is_refused_is_explained(
    genuine: openai.OpenAI, body: dict[str, object], kind: type[openai.APIStatusError], error_type: str, message: str
) -> None:
    """The client raises its own error of that status; our sentence is its `body`, and not in its text."""
    with pytest.raises(kind) as raised:
        genuine.embeddings.create(**({"model": "tiny"} | body))

    assert message in raised.value.body
    assert raised.value.response.json()["error_type"] == error_type


def test_the_one_model_is_listed(genuine: openai.OpenAI) -> None:
    (model,) = genuine.models.list().data

    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "danmaku")
