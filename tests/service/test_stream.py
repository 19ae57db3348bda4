"""NDJSON through POST /embed: valid and invalid lines, and what ends a stream."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

import httpx
import numpy as np
import pytest
from conftest import ClientOf, until_metric
from fakes import RecordingEncoder

from service.settings import Settings

NDJSON = {"content-type": "application/x-ndjson"}
T = TypeVar("T")
TEXTS = ["草", "awsl", "哈哈哈", "晚安"]


def lines_of(*values: object) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


async def stream(client: httpx.AsyncClient, body: object, options: str = "", **headers: str) -> list[dict[str, object]]:
    """Returns the lines of the response."""
    answer = await client.post(f"/embed{options}", content=body, headers=NDJSON | headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture
async def gateway(recording_encoder: RecordingEncoder, client_of: ClientOf) -> AsyncIterator[httpx.AsyncClient]:
    """An application over an encoder with a gate; four texts may wait."""
    async with client_of(Settings(max_request_texts=4, max_queue_texts=4)) as http:
        yield http
        recording_encoder.gate.set()


async def test_every_line_has_a_result(client: httpx.AsyncClient) -> None:
    """Results are in order, after a line that names the model; the vectors are those of a list."""
    expected = (await client.post("/embed", json=TEXTS)).json()
    head, *rows = await stream(client, lines_of(*TEXTS))

    assert head == {"model": "tiny", "fingerprint": expected["fingerprint"], "dim": 16}
    assert rows == [{"index": index, "embedding": row} for index, row in enumerate(expected["embeddings"])]


@pytest.mark.parametrize("given", ["a", 7, -1.5, True, None, 12345678901234567890123, "😂"])
async def test_an_id_is_returned(client: httpx.AsyncClient, given: object) -> None:
    """Numbers are returned unchanged; results of lines without an id have none."""
    _, first, second = await stream(client, lines_of({"text": "草", "id": given}, {"text": "草"}))

    assert list(first) == ["index", "id", "embedding"]
    assert (first["id"], type(first["id"])) == (given, type(given))
    assert "id" not in second


async def test_options_are_query_parameters(client: httpx.AsyncClient) -> None:
    raw = np.array((await client.post("/embed", json=TEXTS)).json()["embeddings"], np.float32)
    _, *rows = await stream(client, lines_of(*TEXTS), "?encoding=base64&normalize=true")
    vectors = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])

    np.testing.assert_allclose(vectors, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "headers", "message"),
    [
        ("?encodng=base64", {}, "encodng: "),
        ("?encoding=hex", {}, "'float' or 'base64'"),
        ("?normalize=perhaps", {}, "normalize: "),
        ("", {"X-Timeout-Ms": "soon"}, "invalid X-Timeout-Ms 'soon'"),
    ],
)
async def test_invalid_options_are_refused_before_the_stream_begins(
    client: httpx.AsyncClient, options: str, headers: dict[str, str], message: str
) -> None:
    answer = await client.post(f"/embed{options}", content=lines_of("草"), headers=NDJSON | headers)

    assert (answer.status_code, answer.json()["error_type"]) == (422, "invalid_request")
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("line", "error_type", "message"),
    [
        ("草", "malformed_json", "invalid JSON in the line: "),
        ('{"text": "草"', "malformed_json", "invalid JSON in the line: EOF"),
        ('"\\ud800"', "malformed_json", "invalid JSON in the line: "),
        ("[" * 5000, "too_large", "too many values: 5000 in the line"),
        ("3", "invalid_request", "invalid line: "),
        ('["草"]', "invalid_request", "invalid line: "),
        ('{"txt": "草"}', "invalid_request", "text: Field required"),
        ('{"text": "草", "id": [1]}', "invalid_request", "id: Input should be a string, a finite number"),
        ('{"text": "草", "id": 1e999}', "invalid_request", "id: "),
        ('{"text": "草", "room": 3}', "invalid_request", "room: "),
        ('" "', "empty_text", "blank"),
        ('"😂"', "unspellable", "vocabulary"),
    ],
)
async def test_a_line_without_a_vector_is_an_error_in_its_place(
    client: httpx.AsyncClient, line: str, error_type: str, message: str
) -> None:
    """The stream continues."""
    _, before, row, after = await stream(client, f'"草"\n{line}\n"草"\n')

    assert (row["index"], row["embedding"], row["error_type"]) == (1, None, error_type)
    assert message in row["error"]
    assert (before["embedding"], after["index"]) == (after["embedding"], 2)


async def test_a_long_text_is_truncated_and_marked(client: httpx.AsyncClient) -> None:
    _, short, long = await stream(client, lines_of("草", "哈" * 3000))

    assert "truncated" not in short
    assert long["truncated"] is True and len(long["embedding"]) == 16


@pytest.mark.parametrize(
    "body", ["", "\n", '"草"', '"草"\n', '"草"\r\n\r\n', '"草"\n\n\n', '\n"草"', "\n" * 3000 + '"草"']
)
async def test_blank_lines_are_ignored(client: httpx.AsyncClient, body: str) -> None:
    """The last line need not end with a line feed."""
    _, *rows = await stream(client, body)

    assert [row["index"] for row in rows] == ([0] if "草" in body else [])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_lines_may_arrive_in_any_pieces(client: httpx.AsyncClient, size: int) -> None:
    body = lines_of(*TEXTS, {"text": "我好了", "id": "😂"}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    assert await stream(client, pieces()) == await stream(client, body)


async def test_a_line_over_the_limit_ends_the_stream(client: httpx.AsyncClient) -> None:
    """Lines before it are answered, the length of a stream is not limited, and the line is not buffered."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield lines_of("哈" * 100, "草").encode()
        while True:  # a line without end
            yield b"a" * 1000
            await asyncio.sleep(0)

    _, *rows, last = await asyncio.wait_for(stream(client, body()), 30)

    assert [row["index"] for row in rows] == list(range(600))
    assert list(last) == ["error", "error_type"] and last["error_type"] == "too_large"
    assert "line 600, counted from 0, has over 20000 bytes" in last["error"]
    _, first, last = await stream(client, lines_of("草", "哈" * 10_000, "草"))
    assert (first["index"], last["error_type"]) == (0, "too_large")


async def test_other_routes_limit_ndjson_bodies(client: httpx.AsyncClient) -> None:
    """The content type of a stream does not help there."""

    async def body() -> AsyncIterator[bytes]:
        yield b" " * 30_000

    for path in ("/similar", "/tokenize", "/encode"):
        assert (await client.post(path, content=body(), headers=NDJSON)).status_code == 413


async def test_a_stream_waits_for_room_in_the_queue(
    gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    """A list would be refused, because the queue is full."""
    recording_encoder.gate.clear()
    encoding = asyncio.create_task(gateway.post("/embed", json=["a"]))
    await recording_encoder.until_called()
    waiting = asyncio.create_task(gateway.post("/embed", json=["b", "c", "d", "e"]))
    await until_metric(gateway, "danmaku_queue_texts", 4)
    assert (await gateway.post("/embed", json=["f"])).status_code == 429
    streaming = asyncio.create_task(stream(gateway, lines_of(*"fghijklmn")))
    await until_metric(gateway, "danmaku_refused_texts_total", 2)  # the list's, and some of the stream's
    recording_encoder.gate.set()
    _, *rows = await streaming

    assert [row["embedding"] for row in rows] == [RecordingEncoder.vector(text) for text in "fghijklmn"]
    assert [(await answer).status_code for answer in (encoding, waiting)] == [200, 200]


async def test_the_deadline_applies_to_a_slice(gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder) -> None:
    """It ends the stream with an error line."""
    recording_encoder.gate.clear()
    _, last = await asyncio.wait_for(stream(gateway, lines_of("草"), **{"X-Timeout-Ms": "50"}), 10)

    assert (last["error_type"], last["error"][:21]) == ("out_of_time", "not done within 50 ms")


async def test_all_vectors_of_a_stream_come_from_one_model(
    gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    """If the model changes meanwhile, the stream ends."""

    async def body() -> AsyncIterator[bytes]:
        yield lines_of("a").encode()
        await until_metric(gateway, "danmaku_texts_total", 1)
        recording_encoder.model = replace(recording_encoder.model, fingerprint="f1")
        yield lines_of("b").encode()

    head, row, last = await stream(gateway, body())

    assert (head["fingerprint"], row["index"]) == ("f0", 0)
    assert last["error_type"] == "model_changed" and "from f0 to f1" in last["error"]


async def test_an_encoder_failure_ends_the_stream(
    gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    recording_encoder.failure = RuntimeError("broken")
    _, last = await stream(gateway, lines_of("草"))

    assert last == {"error": "the encoder failed", "error_type": "encoder_failure"}


async def test_streams_are_counted_separately(client: httpx.AsyncClient) -> None:
    """They may take hours, which would distort the latencies of lists."""
    await stream(client, lines_of("草"))
    counted = (await client.get("/metrics")).text

    assert 'danmaku_requests_total{outcome="ok",route="/embed stream"} 1.0' in counted
    assert 'danmaku_requests_total{outcome="ok",route="/embed"} 0.0' in counted
