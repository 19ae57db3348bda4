"""Every route: its responses, and its errors for invalid requests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

TEXTS = ["草", "awsl", "哈哈哈", "晚安"]


async def vectors_of(client: httpx.AsyncClient, **body: object) -> np.ndarray:
    answer = await client.post("/embed", json=body)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embeddings"], np.float32)


async def test_embed_returns_the_documented_fields(client: httpx.AsyncClient) -> None:
    answer = await client.post("/embed", json={"texts": TEXTS})
    body = answer.json()

    assert answer.headers["content-type"] == "application/json"
    assert list(body) == ["model", "fingerprint", "dim", "embeddings", "truncated", "errors"]
    assert (body["model"], body["dim"], body["truncated"], body["errors"]) == ("tiny", 16, [], [])
    assert [len(row) for row in body["embeddings"]] == [16] * 4


async def test_a_bare_list_is_a_list_of_texts(client: httpx.AsyncClient) -> None:
    assert (await client.post("/embed", json=TEXTS)).json() == (
        await client.post("/embed", json={"texts": TEXTS})
    ).json()


async def test_the_content_type_does_not_matter(client: httpx.AsyncClient) -> None:
    """`curl -d` says that it sends a form."""
    form = {"content-type": "application/x-www-form-urlencoded"}

    assert (await client.post("/embed", content='["草"]', headers=form)).status_code == 200


async def test_a_byte_order_mark_is_not_part_of_the_body(client: httpx.AsyncClient) -> None:
    body = '\ufeff["草"]\n'.encode()
    stream = await client.post(
        "/embed", content=b"\xef\xbb\xbf" + '"草"\n'.encode(), headers={"content-type": "application/x-ndjson"}
    )

    assert (await client.post("/embed", content=body)).status_code == 200
    assert "embedding" in stream.text.splitlines()[1]


async def test_all_encodings_give_the_same_numbers(client: httpx.AsyncClient) -> None:
    expected = await vectors_of(client, texts=TEXTS)
    in_base64 = (await client.post("/embed", json={"texts": TEXTS, "encoding": "base64"})).json()["embeddings"]
    npy = await client.post("/embed", json=TEXTS, headers={"accept": "application/x-npy"})
    info = (await client.get("/info")).json()

    assert np.array_equal(np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in in_base64]), expected)
    assert np.array_equal(np.load(io.BytesIO(npy.content)), expected)
    assert npy.headers["content-type"] == "application/x-npy"
    assert npy.headers["x-danmaku-fingerprint"] == info["fingerprint"]
    assert npy.headers["x-danmaku-truncated"] == "0"


async def test_normalized_vectors_have_length_one(client: httpx.AsyncClient) -> None:
    raw, unit = await vectors_of(client, texts=TEXTS), await vectors_of(client, texts=TEXTS, normalize=True)

    assert np.linalg.norm(unit, axis=1) == pytest.approx(1, abs=1e-5)
    assert unit == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-5)


async def test_a_text_without_a_vector_is_null_and_explained(client: httpx.AsyncClient) -> None:
    """This holds in every encoding, beside texts that have a vector."""
    texts = ["草", " ", "😂", "晚安"]
    body = (await client.post("/embed", json={"texts": texts})).json()
    in_base64 = (await client.post("/embed", json={"texts": texts, "encoding": "base64"})).json()
    npy = await client.post("/embed", json=texts, headers={"accept": "application/x-npy"})

    assert [row is None for row in body["embeddings"]] == [False, True, True, False]
    assert [row is None for row in in_base64["embeddings"]] == [False, True, True, False]
    assert np.isnan(np.load(io.BytesIO(npy.content))).all(axis=1).tolist() == [False, True, True, False]
    assert [(error["index"], error["error_type"]) for error in body["errors"]] == [
        (1, "empty_text"),
        (2, "unspellable"),
    ]
    assert all(error["error"] for error in body["errors"])


async def test_a_long_text_is_truncated(client: httpx.AsyncClient) -> None:
    """It gets the vector of its beginning, and the response says so."""
    body = (await client.post("/embed", json=["草", "哈" * 3000])).json()

    assert body["truncated"] == [1]
    assert body["embeddings"][1] == (await client.post("/embed", json=["哈" * 14])).json()["embeddings"][0]


async def test_similar_ranks_candidates(client: httpx.AsyncClient) -> None:
    """The scores are cosines of the vectors that /embed returns."""
    candidates = ["晚安", "awsl", "草草", "草"]
    vectors = await vectors_of(client, texts=["草", *candidates], normalize=True)
    body = (await client.post("/similar", json={"query": "草", "candidates": candidates})).json()
    (result,) = body["results"]

    assert list(body) == ["model", "fingerprint", "results", "errors"]
    assert result["query"] == "草"
    assert result["matches"][0] == {
        "id": "3",
        "text": "草",
        "score": pytest.approx(1),
        "relation": "same",
        "metadata": {},
    }
    assert [match["text"] for match in result["matches"]] == [
        candidates[index] for index in np.argsort(-(vectors[1:] @ vectors[0]))
    ]
    assert {match["text"]: match["score"] for match in result["matches"]} == {
        text: pytest.approx(float(vector @ vectors[0]), abs=1e-5)
        for text, vector in zip(candidates, vectors[1:], strict=True)
    }


async def test_fields_of_collections_may_be_sent_with_candidates_at_their_defaults(client: httpx.AsyncClient) -> None:
    """As clients do that are generated from the OpenAPI document."""
    fields = {"id": None, "vector": None, "filter": None, "with_vectors": False, "collection": None, "top_k": None}
    answer = await client.post("/similar", json={"query": "草", "candidates": ["草"], **fields})

    assert answer.status_code == 200, answer.text


async def test_similar_accepts_several_queries(client: httpx.AsyncClient) -> None:
    """A query that cannot be embedded matches nothing, and such a candidate is never matched."""
    answer = await client.post("/similar", json={"query": ["草", "😂"], "candidates": [" ", "awsl", "草"], "top_k": 1})
    first, second = answer.json()["results"]

    assert [match["id"] for match in first["matches"]] == ["2"]
    assert (second["query"], second["matches"]) == ("😂", [])
    assert [(e["field"], e["index"], e["error_type"]) for e in answer.json()["errors"]] == [
        ("query", 1, "unspellable"),
        ("candidates", 0, "empty_text"),
    ]


@pytest.mark.parametrize("body", [{"texts": []}, []])
async def test_no_texts_give_no_vectors(client: httpx.AsyncClient, body: object) -> None:
    assert (await client.post("/embed", json=body)).json()["embeddings"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "error_type", "message"),
    [
        ("/embed", "", 400, "malformed_json", "invalid JSON in the body: "),
        ("/embed", '{"texts": ["草"', 400, "malformed_json", "invalid JSON in the body: unexpected end of data"),
        ("/embed", b"\xff\xfe", 400, "malformed_json", "invalid JSON in the body: "),
        ("/embed", '["\\ud800"]', 400, "malformed_json", "invalid JSON in the body: "),
        ("/embed", "[" * 5000, 422, "invalid_request", "invalid body: 5000 levels"),
        ("/embed", "{}", 422, "invalid_request", "texts: Field required"),
        ("/embed", "3", 422, "invalid_request", "invalid body: Input should be an object"),
        (
            "/embed?normalize=1",
            '["草"]',
            422,
            "invalid_request",
            "option normalize: expected it as a field",
        ),
        ("/merge?window_s=3", '{"lines": []}', 422, "invalid_request", "invalid query option window_s"),
        ("/embed", '{"texts": "草"}', 422, "invalid_request", "texts: "),
        ("/embed", '["草", 3]', 422, "invalid_request", "texts.1: "),
        ("/embed", '{"texts": [], "txets": 1}', 422, "invalid_request", "txets: "),
        ("/embed", '{"texts": [], "encoding": "hex"}', 422, "invalid_request", "'float' or 'base64'"),
        ("/embed", json.dumps(["草"] * 51), 413, "too_large", "51 in one request; expected at most 50"),
        ("/embed", json.dumps(["草" * 10_000]), 413, "too_large", "expected at most 20000 bytes"),
        ("/similar", '{"query": "草"}', 422, "invalid_request", "`candidates` or `collection`"),
        ("/similar", '{"query": 3, "candidates": []}', 422, "invalid_request", "query: "),
        ("/similar", '{"query": "草", "candidates": [], "top_k": 0}', 422, "invalid_request", "top_k: "),
        ("/similar", '{"query": "草", "candidates": [], "min_score": 2}', 422, "invalid_request", "min_score: "),
        (
            "/similar",
            json.dumps({"query": "草", "candidates": ["草"] * 50}),
            413,
            "too_large",
            "too many texts: 51 in one request",
        ),
        ("/nothing", "{}", 404, "not_found", "no route /nothing"),
        ("/healthz", "{}", 405, "method_not_allowed", "Method Not Allowed"),
    ],
)
async def test_invalid_requests_are_explained(
    client: httpx.AsyncClient, path: str, body: str | bytes, status: int, error_type: str, message: str
) -> None:
    """Every error has the same fields and the right status, and the server keeps serving."""
    answer = await client.post(path, content=body)

    assert answer.status_code == status
    assert list(answer.json()) == ["error", "error_type"]
    assert answer.json()["error_type"] == error_type
    assert message in answer.json()["error"]
    assert (await client.post("/embed", json=["草"])).status_code == 200


async def test_a_body_of_unknown_length_is_limited_too(client: httpx.AsyncClient) -> None:
    """A chunked upload is cut off at the limit; a small one is read whole."""

    async def chunks(count: int) -> AsyncIterator[bytes]:
        yield b'["'
        for _ in range(count):
            yield b"a" * 1000
        yield b'"]'

    assert (await client.post("/embed", content=chunks(3))).status_code == 200
    refused = await client.post("/embed", content=chunks(100))
    assert (refused.status_code, refused.json()["error_type"]) == (413, "too_large")


async def test_health_and_info(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    info = (await client.get("/info")).json()
    assert (info["model"], info["dim"], info["max_seq_len"], info["pooling_layer"]) == ("tiny", 16, 16, [-2])
    assert info["fingerprint"] == (await client.post("/embed", json=[])).json()["fingerprint"]


async def test_the_docs_page_needs_no_other_host(client: httpx.AsyncClient) -> None:
    """Its scripts and styles come from this server, and it describes every route."""
    page = (await client.get("/docs")).text
    paths = (await client.get("/openapi.json")).json()["paths"]

    assert "http://" not in page and "https://" not in page
    assert (await client.get("/static-offline-docs/swagger-ui-bundle.js")).status_code == 200
    assert set(paths) == {
        *("/embed", "/similar", "/merge", "/tokenize", "/v1/embeddings", "/v1/models", "/v1/models/{id}"),
        *("/collections", "/collections/{name}", "/collections/{name}/danmaku", "/collections/{name}/danmaku/{id}"),
        *("/collections/{name}/delete", "/collections/{name}/rebuild", "/collections/{name}/map"),
        *("/encode", "/status/server", "/status/client"),
        *("/", "/classify", "/health", "/highlights", "/predict", "/similarity"),
        *("/collections/{name}/observe", "/collections/{name}/topics"),
        *("/healthz", "/readyz", "/info", "/usage", "/metrics"),
    }


async def test_metrics_count_requests(client: httpx.AsyncClient) -> None:
    """They are in Prometheus' format, and every series exists from the start."""
    from prometheus_client.parser import text_string_to_metric_families

    Sample = tuple[str, frozenset[tuple[str, str]]]

    async def samples() -> dict[Sample, float]:
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    before = await samples()
    await client.post("/embed", json=["草", "草", " ", "哈" * 20])
    await client.post("/embed", json=["草"])
    await client.post("/embed", content="no")
    await client.get("/nothing")
    after = await samples()

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before[key]

    assert grown("danmaku_requests_total", route="/embed", outcome="ok") == 2
    assert grown("danmaku_requests_total", route="/embed", outcome="invalid") == 1
    assert grown("danmaku_requests_total", route="other", outcome="invalid") == 1
    assert grown("danmaku_requests_total", route="/embed", outcome="failed") == 0
    assert grown("danmaku_request_seconds_count", route="/embed") == 3
    assert grown("danmaku_texts_total") == 5
    assert grown("danmaku_text_errors_total", error_type="empty_text") == 1
    assert grown("danmaku_truncated_texts_total") == 1
    assert grown("danmaku_cache_lookups_total", tier="memory", result="miss") == 2
    assert grown("danmaku_cache_lookups_total", tier="memory", result="hit") == 1
    assert grown("danmaku_batch_tokens_total") == 3 + 16
    info = (await client.get("/info")).json()
    model = {"model": "tiny", "fingerprint": info["fingerprint"], "dim": "16"}
    assert after["danmaku_model_info", frozenset(model.items())] == 1


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "soon", "9999999999999"])
async def test_an_invalid_deadline_is_refused(client: httpx.AsyncClient, value: str) -> None:
    answer = await client.post("/embed", json=["草"], headers={"X-Timeout-Ms": value})

    assert (answer.status_code, answer.json()["error_type"]) == (422, "invalid_request")
    assert value in answer.json()["error"]
