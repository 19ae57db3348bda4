"""bert-serving-server's HTTP API, as its clients call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ClientOf, until_metric
from fakes import RecordingEncoder

from service.settings import Settings


async def test_the_call_that_its_readme_shows(client: httpx.AsyncClient) -> None:
    """The vectors are those of /embed, under the field name of the genuine server's code."""
    body = {"id": 123, "texts": ["草", "awsl"], "is_tokenized": False}
    answer = await client.post("/encode", json=body)
    expected = (await client.post("/embed", json=body["texts"])).json()["embeddings"]

    assert answer.status_code == 200
    assert answer.json() == {"id": 123, "result": expected, "status": 200}


@pytest.mark.parametrize("given", ["a", None, [1], {"a": 1}, 12345678901234567890123])
async def test_any_id_is_returned(client: httpx.AsyncClient, given: object) -> None:
    """Other fields of the body are ignored."""
    answer = await client.post("/encode", json={"id": given, "texts": ["草"], "more": 1})

    assert answer.json()["id"] == given


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("", "JSONDecodeError", "Expecting value"),
        ("[" * 5000, "InvalidRequest", "5000 levels"),
        ("[]", "ValueError", "expected {"),
        ('{"texts": ["草"]}', "ValueError", "expected {"),
        ('{"id": 1, "texts": []}', "ValueError", "empty list"),
        ('{"id": 1, "texts": [3]}', "WireError", "list of strings"),
        ('{"id": NaN, "texts": ["草"]}', "ValueError", "not JSON compliant"),
        ('{"id": 1, "texts": ["草"], "is_tokenized": true}', "ValueError", "invalid texts; expected strings"),
        (
            '{"id": 1, "texts": [["草"]], "is_tokenized": true}',
            "ValueError",
            "is_tokenized is supported by workers only",
        ),
        ('{"id": 1, "texts": ["草", " "]}', "NoVector", "texts.1: the text is blank"),
        ('{"id": 1, "texts": ["😂"]}', "NoVector", "texts.0: the vocabulary has none"),
        (json.dumps({"id": 1, "texts": ["草"] * 51}), "TooLarge", "51 in one request; expected at most 50"),
    ],
)
async def test_invalid_texts_are_a_400_with_the_reason(
    client: httpx.AsyncClient, body: str, kind: str, message: str
) -> None:
    """The response has the genuine server's fields."""
    answer = await client.post("/encode", content=body)

    assert answer.status_code == 400
    assert list(answer.json()) == ["description", "type", "status"]
    assert (answer.json()["type"], answer.json()["status"]) == (kind, 400)
    assert message in answer.json()["description"]


@pytest.fixture
async def gateway(recording_encoder: RecordingEncoder, client_of: ClientOf) -> AsyncIterator[httpx.AsyncClient]:
    """An application over an encoder with a gate; one text may wait for it."""
    async with client_of(Settings(max_request_texts=1, max_queue_texts=1)) as http:
        yield http
        recording_encoder.gate.set()


async def test_errors_of_the_service_keep_their_status(
    gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    """So a client knows when to retry."""
    recording_encoder.gate.clear()
    asking = []
    for text, queued in (("a", 0), ("b", 1)):
        asking.append(asyncio.create_task(gateway.post("/encode", json={"id": 1, "texts": [text]})))
        await recording_encoder.until_called()
        await until_metric(gateway, "danmaku_queue_texts", queued)
    busy = (await gateway.get("/status/server")).json()
    overloaded = await gateway.post("/encode", json={"id": 1, "texts": ["c"]})
    late = await gateway.post("/encode", json={"id": 1, "texts": ["a"]}, headers={"X-Timeout-Ms": "10"})
    recording_encoder.failure = RuntimeError("broken")
    recording_encoder.gate.set()
    failed = [await answer for answer in asking]

    assert busy["in_progress"] == 2
    assert (overloaded.status_code, overloaded.json()["type"]) == (429, "Overloaded")
    assert int(overloaded.headers["retry-after"]) >= 1
    assert (late.status_code, late.json()["type"]) == (504, "OutOfTime")
    assert [(answer.status_code, answer.json()["type"]) for answer in failed] == [(503, "EncoderFailure")] * 2
    assert all(answer.headers["retry-after"] for answer in failed)


async def test_the_status_has_the_genuine_fields(client: httpx.AsyncClient) -> None:
    """It counts the requests of these routes and describes the model."""
    for count in (1, 3):
        await client.post("/encode", json={"id": 1, "texts": ["草"] * count})
    status = (await client.get("/status/server")).json()
    info = (await client.get("/info")).json()
    told = status["statistic"]

    assert (status["status"], status["server_version"]) == (200, "1.10.0")
    assert (status["max_seq_len"], status["pooling_layer"], status["pooling_strategy"]) == (16, [-2], 2)
    assert (status["num_worker"], status["fingerprint"]) == (2, info["fingerprint"])
    assert (told["num_data_request"], told["num_total_seq"], told["num_sys_request"]) == (2, 4, 1)
    assert (told["avg_size_per_request"], told["max_size_per_request"], told["num_total_client"]) == (2, 3, 1)
    assert (status["in_progress"], status["obstacle"]) == (0, None)


async def test_the_status_of_a_client_is_the_workers(client: httpx.AsyncClient) -> None:
    status = (await client.get("/status/client")).json()

    assert status == {"client_version": "1.10.0", "identity": "http", "output_fmt": "list", "status": 200}


async def test_the_result_is_an_array(client: httpx.AsyncClient, tiny_model: Path) -> None:
    """It has the type that callers convert it to."""
    answer = await client.post("/encode", json={"id": 1, "texts": ["草", "好", "晚安"]})

    assert np.array(answer.json()["result"], np.float32).shape == (3, 16)
