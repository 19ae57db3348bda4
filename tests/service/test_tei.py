"""text-embeddings-inference's shape: bare lists of vectors of length 1; and probes that ask by HEAD."""

from __future__ import annotations

import hashlib

import httpx
import numpy as np
import pytest
from conftest import ClientOf

from service.settings import Settings


@pytest.mark.parametrize("path", ["/embed", "/"])
async def test_inputs_are_answered_with_a_bare_list_of_unit_vectors(client: httpx.AsyncClient, path: str) -> None:
    ours = (await client.post("/embed", json={"texts": ["草", "awsl"], "normalize": True})).json()["embeddings"]

    several = await client.post(path, json={"inputs": ["草", "awsl"], "truncate": True})
    single = await client.post(path, json={"inputs": "草", "normalize": None, "some_option": 1})

    assert several.json() == ours
    assert single.json() == ours[:1]


async def test_vectors_keep_their_length_if_asked(client: httpx.AsyncClient) -> None:
    ours = (await client.post("/embed", json=["草"])).json()["embeddings"]

    assert (await client.post("/", json={"inputs": ["草"], "normalize": False})).json() == ours


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"inputs": ["草", " "]}, "inputs.1: the text is blank"),
        ({"inputs": []}, "invalid inputs: "),
        ({"inputs": [[101, 102]]}, "invalid inputs: expected texts, not lists of token ids"),
        ({"inputs": "草", "prompt_name": "query"}, "invalid prompt_name: "),
        ({"inputs": "草", "truncation_direction": "Left"}, "invalid truncation_direction: "),
        ({"inputs": "草", "dimensions": 7}, "invalid dimensions 7: expected 16"),
        (
            {"inputs": ["草", "草" * 40], "truncate": False},
            "inputs.1: the text has more than 16 tokens; expected fewer",
        ),
        ({"texts": ["草"]}, "invalid inputs: "),
    ],
)
async def test_a_reason_is_given(client: httpx.AsyncClient, body: object, error: str) -> None:
    answer = await client.post("/", json=body)

    assert answer.status_code == 422
    assert answer.json()["error"].startswith(error)


async def test_a_text_of_unknown_characters_is_named_in_a_header(client: httpx.AsyncClient) -> None:
    answer = await client.post("/embed", json={"inputs": ["草", "龘"]})

    assert [len(vector) for vector in answer.json()] == [16, 16]
    assert answer.headers["x-danmaku-unknown"] == "1"


async def test_similarity_gives_a_cosine_for_each_sentence(client: httpx.AsyncClient) -> None:
    texts = ["阿夸", "aqua", "晚安"]
    units = np.array((await client.post("/", json={"inputs": texts})).json())

    body = {"inputs": {"source_sentence": texts[0], "sentences": texts[1:]}, "parameters": {"truncate": True}}
    cosines = (await client.post("/similarity", json=body)).json()

    np.testing.assert_allclose(cosines, units[1:] @ units[0], atol=1e-6)
    body = {"inputs": {"source_sentence": " ", "sentences": texts}}
    assert (await client.post("/similarity", json=body)).json()["error"].startswith("inputs.source_sentence.0: ")


async def test_info_has_the_fields_of_text_embeddings_inference(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()

    assert (info["model_id"], info["max_input_length"], info["auto_truncate"]) == ("tiny", 16, True)


async def test_the_page_is_open_but_embedding_at_its_path_needs_a_key(client_of: ClientOf) -> None:
    settings = Settings(api_key_hashes=(hashlib.sha256(b"secret").hexdigest(),))
    async with client_of(settings) as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.head("/")).status_code == 200
        assert (await http.post("/", json={"inputs": "草"})).status_code == 401
        assert (await http.get("/health")).status_code == 200
        answer = await http.post("/", json={"inputs": "草"}, headers={"Authorization": "Bearer secret"})
        assert answer.status_code == 200
        described = (await http.get("/openapi.json")).json()["paths"]["/"]["post"]
        assert described["security"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/metrics", "/", "/v1/models"])
async def test_head_is_answered_like_get(client: httpx.AsyncClient, path: str) -> None:
    head, get = await client.head(path), await client.get(path)

    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_head_of_what_is_only_posted_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.head("/embed")).status_code == 405
