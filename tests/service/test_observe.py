"""Request ids, error logs and request metrics."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from conftest import ClientOf
from fakes import RecordingEncoder

from service.log import JsonFormatter, NameRequest
from service.settings import Settings


@pytest.fixture
async def broken_client(client_of: ClientOf, recording_encoder: RecordingEncoder) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that has a bug in the code that reads texts."""

    def normalize(text: str) -> str:
        raise ZeroDivisionError("a bug")

    recording_encoder.normalize = normalize  # type: ignore[method-assign]
    async with client_of(Settings()) as http:
        yield http


@pytest.mark.parametrize("given", ["a", "order-7_b.2", "x" * 128])
async def test_a_valid_request_id_is_returned(recording_client: httpx.AsyncClient, given: str) -> None:
    answer = await recording_client.post("/embed", json=["草"], headers={"X-Request-ID": given})

    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\tb", '"', "草".encode(), "a,b"])
async def test_an_invalid_request_id_is_replaced(
    recording_client: httpx.AsyncClient, given: str | bytes | None
) -> None:
    """Each request gets a new one."""
    headers = {} if given is None else {"X-Request-ID": given}
    answers = [await recording_client.get("/info", headers=headers) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]

    assert all(re.fullmatch("[0-9a-f]{8}-[0-9a-f]+", request_id) for request_id in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/embed", "no", 400),
        ("POST", "/embed", "{}", 422),
        ("GET", "/nothing", "", 404),
        ("GET", "/embed", "", 405),
        ("POST", "/similar", '{"query": "草", "candidates": []}', 500),
    ],
)
async def test_errors_have_a_request_id(
    broken_client: httpx.AsyncClient, method: str, path: str, body: str, status: int
) -> None:
    answer = await broken_client.request(method, path, content=body, headers={"X-Request-ID": "mine"})

    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine")
    assert list(answer.json()) == ["error", "error_type"]


async def test_a_bug_is_logged_once_with_the_id(
    broken_client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged in text and as JSON; the caller learns only that it is an internal error."""
    caplog.handler.addFilter(name_request := NameRequest())
    try:
        body = {"query": "草", "candidates": []}
        answer = await broken_client.post("/similar", json=body, headers={"X-Request-ID": "mine"})
    finally:
        caplog.handler.removeFilter(name_request)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    line = json.loads(JsonFormatter().format(record))

    assert "bug" not in answer.text and answer.json()["error_type"] == "internal"
    assert logging.Formatter("%(message)s%(of_request)s").format(record).startswith("POST '/similar' failed. [mine]\n")
    assert (line["id"], line["level"], line["message"]) == ("mine", "error", "POST '/similar' failed.")
    assert "ZeroDivisionError: a bug" in line["exception"]
    counted = (await broken_client.get("/metrics")).text
    assert 'danmaku_requests_total{outcome="failed",route="/similar"} 1.0' in counted


async def test_a_failed_batch_is_logged_without_a_request_id(
    recording_client: httpx.AsyncClient, recording_encoder: RecordingEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch may contain texts of several requests."""
    caplog.handler.addFilter(name_request := NameRequest())
    recording_encoder.failure = RuntimeError("broken")
    try:
        answer = await recording_client.post("/embed", json=["草"], headers={"X-Request-ID": "mine"})
    finally:
        caplog.handler.removeFilter(name_request)

    assert (answer.status_code, answer.headers["x-request-id"]) == (503, "mine")
    assert [record.request_id for record in caplog.records if "model call" in record.message] == [None]


async def test_a_text_that_is_too_long_fails_alone(client_of: ClientOf) -> None:
    """The length is checked before normalisation; a text with one character less is embedded."""
    texts = ["草", "哈" * 9, "哈" * 8, " " * 9, " "]
    async with client_of(Settings(max_text_characters=8)) as http:
        body = (await http.post("/embed", json=texts)).json()
        metrics = (await http.get("/metrics")).text

    assert [row is None for row in body["embeddings"]] == [False, True, False, True, True]
    assert [(error["index"], error["error_type"]) for error in body["errors"]] == [
        (1, "text_too_long"),
        (3, "text_too_long"),
        (4, "empty_text"),
    ]
    assert body["errors"][0]["error"] == "the text has 9 characters; expected at most 8"
    assert 'danmaku_text_errors_total{error_type="text_too_long"} 2.0' in metrics
