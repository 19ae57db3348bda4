"""/v1/embeddings and /v1/models, through OpenAI's own unmodified client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from conftest import ClientOf
from fakes import RecordingEncoder
from processes import serving

from service.app import create_app
from service.settings import Settings

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
    body = {"texts": TEXTS, "normalize": True}
    return np.array(gateway.post("/embed", json=body).json()["embeddings"], np.float32)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_a_list_has_the_vectors_of_embed(
    genuine: openai.OpenAI, expected: np.ndarray, options: dict[str, object]
) -> None:
    """They are in the order of the list, in either format; by default the client requests base64 and decodes it."""
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


def test_vectors_have_length_one(genuine: openai.OpenAI) -> None:
    vectors = [item.embedding for item in genuine.embeddings.create(model="tiny", input=TEXTS).data]

    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_all_dimensions_may_be_requested(genuine: openai.OpenAI, expected: np.ndarray) -> None:
    (item,) = genuine.embeddings.create(model="tiny", input="草", dimensions=16).data

    assert np.array_equal(np.array(item.embedding, np.float32), expected[0])


@pytest.mark.parametrize("dimensions", [64, 128, 256])
async def test_vectors_of_the_bundled_model_are_cut_and_then_scaled(dimensions: int) -> None:
    """This holds on every route with dimensions; the cosine of /similar is that of the cut vectors."""
    app = create_app(Settings(threads=1))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http,
    ):

        async def post(path: str, **body: object) -> dict[str, Any]:
            answer = await http.post(path, json={"dimensions": dimensions} | body)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        whole = np.array((await post("/embed", texts=["草", "晚安"], dimensions=256))["embeddings"], np.float32)
        cut = whole[:, :dimensions]
        expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
        raw = await post("/embed", texts=["草", "晚安"])
        scaled = await post("/embed", texts=["草", "晚安"], normalize=True)
        data = (await post("/v1/embeddings", input=["草", "晚安"], model="danmaku-bert-mini"))["data"]
        ((match,),) = [each["matches"] for each in (await post("/similar", query="草", candidates=["晚安"]))["results"]]
        refused = await http.post("/embed", json={"texts": ["草"], "dimensions": 100})

    assert (raw["dim"], raw["embeddings"]) == (dimensions, pytest.approx(cut))
    assert np.array(scaled["embeddings"]) == pytest.approx(expected, abs=1e-6)
    assert np.array([item["embedding"] for item in data]) == pytest.approx(expected, abs=1e-6)
    assert match["score"] == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)
    assert refused.status_code == 422
    assert "invalid dimensions 100: expected 64, 128 or 256" in refused.json()["error"]


def test_nulls_are_defaults_and_unknown_fields_are_ignored(gateway: httpx.Client, expected: np.ndarray) -> None:
    options = {"encoding_format": None, "dimensions": None, "user": None, "input_type": "query"}
    answer = gateway.post("/v1/embeddings", json={"model": "tiny", "input": "草", **options})

    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == pytest.approx(expected[0].tolist(), abs=1e-6)


def test_a_text_of_unknown_characters_has_a_vector_and_is_named(gateway: httpx.Client) -> None:
    """This is so only here: /embed returns none, whether or not this route has seen the text."""
    answer = gateway.post("/v1/embeddings", json={"model": "tiny", "input": ["草", "😂", "🎉"]})
    embedded = gateway.post("/embed", json=["草", "😂"]).json()

    assert answer.status_code == 200, answer.text
    assert answer.headers["x-danmaku-unknown"] == "1,2"
    assert np.linalg.norm([item["embedding"] for item in answer.json()["data"]], axis=1) == pytest.approx(1, abs=1e-5)
    assert embedded["embeddings"][1] is None
    assert "x-danmaku-unknown" not in gateway.post("/v1/embeddings", json={"model": "tiny", "input": "草"}).headers


async def test_a_blank_text_is_refused_before_anything_is_encoded(
    recording_client: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    answer = await recording_client.post("/v1/embeddings", json={"model": "recording", "input": ["a", " "]})

    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "message": "input.1: the text is blank",
        "type": "invalid_request_error",
        "param": "input.1",
        "code": "empty_text",
    }
    assert recording_encoder.calls == []


async def test_a_setting_refuses_unknown_texts_before_anything_is_encoded(
    client_of: ClientOf, recording_encoder: RecordingEncoder
) -> None:
    async with client_of(Settings(refuse_unknown=True)) as http:
        answer = await http.post("/v1/embeddings", json={"model": "recording", "input": ["a", "?"]})

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unspellable")
    assert recording_encoder.calls == []


def test_usage_counts_what_the_model_reads(genuine: openai.OpenAI) -> None:
    """It excludes [CLS], [SEP] and what was cut off; the cache makes no difference."""
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
            "expected texts, not lists of token ids",
        ),
        ({"input": [[1, 2], [3]]}, openai.UnprocessableEntityError, "invalid_request", "check_embedding_ctx_length"),
        ({"input": []}, openai.UnprocessableEntityError, "invalid_request", "input: List should have at least 1"),
        (
            {"input": "草", "dimensions": 17},
            openai.UnprocessableEntityError,
            "invalid_request",
            "invalid dimensions 17: expected 16, as 'tiny'",
        ),
        ({"input": ["草", ""]}, openai.UnprocessableEntityError, "empty_text", "input.1: the text is blank"),
        ({"input": ["草"] * 51}, openai.APIStatusError, "too_large", "51 in one request; expected at most 50"),
        (
            {"input": "草", "model": "text-embedding-3-small"},
            openai.NotFoundError,
            "not_found",
            "invalid model 'text-embedding-3-small': expected 'tiny'",
        ),
    ],
)
def test_errors_are_explained(
    genuine: openai.OpenAI, body: dict[str, object], kind: type[openai.APIStatusError], error_type: str, message: str
) -> None:
    """The client raises its own exception for that status, with our message."""
    with pytest.raises(kind) as raised:
        genuine.embeddings.create(**({"model": "tiny"} | body))

    assert message in str(raised.value)
    assert raised.value.code == error_type


def test_the_one_model_is_listed(genuine: openai.OpenAI) -> None:
    (model,) = genuine.models.list().data

    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "danmaku")
    assert genuine.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="invalid model 'other': expected 'tiny'"):
        genuine.models.retrieve("other")
