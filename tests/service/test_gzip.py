"""Request bodies and responses compressed with gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.settings import Settings

PACKED = {"content-encoding": "gzip"}
TEXTS = ["草", "awsl", "哈哈哈", "晚安"]
BODY = json.dumps(TEXTS).encode()


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


@pytest.mark.parametrize("name", ["gzip", "GZIP", "x-gzip", " gzip "])
async def test_a_compressed_body_is_like_a_plain_one(client: httpx.AsyncClient, name: str) -> None:
    plain = await client.post("/embed", content=BODY)
    packed = await client.post("/embed", content=gzip.compress(BODY), headers={"content-encoding": name})

    assert packed.json() == plain.json()
    assert (await client.post("/embed", content=BODY, headers={"content-encoding": "identity"})).json() == plain.json()


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_a_compressed_body_may_arrive_in_any_pieces(client: httpx.AsyncClient, size: int) -> None:
    """It may consist of several members, as gzip files may."""
    body = gzip.compress(BODY[:7]) + gzip.compress(BODY[7:9]) + gzip.compress(BODY[9:])
    answer = await client.post("/embed", content=in_pieces(body, size), headers=PACKED)

    assert answer.json()["embeddings"] == (await client.post("/embed", content=BODY)).json()["embeddings"]


async def test_a_stream_may_be_compressed(client: httpx.AsyncClient) -> None:
    """It may be longer than any other body."""
    lines = b"".join(json.dumps("草" * 10 + text).encode() + b"\n" for text in TEXTS * 200)
    assert len(lines) > 20_000
    headers = PACKED | {"content-type": "application/x-ndjson"}
    answer = await client.post("/embed", content=in_pieces(gzip.compress(lines), 100), headers=headers)

    assert [json.loads(line).get("index") for line in answer.text.splitlines()] == [None, *range(800)]


def error_type(answer: httpx.Response) -> str:
    """Returns the error's type, which is `code` in OpenAI's error object."""
    body = answer.json()
    return str(body["error"]["code"] if isinstance(body["error"], dict) else body["error_type"])


@pytest.mark.parametrize("members", [1, 3])
async def test_a_gzip_bomb_is_too_large(client: httpx.AsyncClient, members: int) -> None:
    """For a list, the whole body counts; for a stream, a line."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS + 16)
    member = b"".join(packer.compress(b" " * 2**20) for _ in range(64)) + packer.flush()
    for path in ("/embed", "/encode", "/v1/embeddings", "/tokenize", "/similar"):
        answer = await client.post(path, content=member * members, headers=PACKED)
        assert (answer.status_code, error_type(answer)) == (413, "too_large")
    stream = PACKED | {"content-type": "application/x-ndjson"}
    answer = await client.post("/embed", content=member * members, headers=stream)
    assert json.loads(answer.text.splitlines()[-1])["error_type"] == "too_large"


DAMAGED = {
    "no gzip": BODY,
    "broken off": gzip.compress(BODY)[:-3],
    "wrong checksum": gzip.compress(BODY)[:-8] + b"\0" * 8,
    "something behind": gzip.compress(BODY) + b"more",
    "bits flipped": gzip.compress(BODY)[:14] + b"\xff\xff\xff" + gzip.compress(BODY)[17:],
}


@pytest.mark.parametrize("body", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_body_is_an_error(client: httpx.AsyncClient, body: bytes) -> None:
    """This holds for every route, and nothing of the body is used."""
    for path in ("/embed", "/encode", "/v1/embeddings"):
        answer = await client.post(path, content=body, headers=PACKED)
        assert (answer.status_code, error_type(answer)) == (400, "damaged_gzip")
    stream = PACKED | {"content-type": "application/x-ndjson"}
    answer = await client.post("/embed", content=body, headers=stream)
    assert json.loads(answer.text.splitlines()[-1])["error_type"] == "damaged_gzip"


@pytest.mark.parametrize("name", ["br", "deflate", "gzip, gzip", "nonsense"])
async def test_another_content_encoding_is_refused(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.post("/embed", content=BODY, headers={"content-encoding": name})

    assert (answer.status_code, answer.json()["error_type"]) == (415, "unknown_encoding")
    assert repr(name) in answer.json()["error"] and "expected gzip or none" in answer.json()["error"]


async def test_an_empty_body_may_claim_to_be_gzip(client: httpx.AsyncClient) -> None:
    """Some clients always send that header."""
    assert (await client.get("/healthz", headers=PACKED)).status_code == 200
    assert (await client.post("/embed", content=b"", headers=PACKED)).json()["error_type"] == "malformed_json"


async def test_responses_are_compressed_if_both_sides_want_it(client: httpx.AsyncClient, tiny_model: Path) -> None:
    """By default the gateway does not: nearly every client accepts it, and it costs more than the response."""
    app = create_app(Settings(encoder=f"onnx://{tiny_model}", gzip_level=1, threads=1))
    stream = {"content-type": "application/x-ndjson"}
    packing = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
    async with app.router.lifespan_context(app), packing:
        packed = await packing.post("/embed", json=TEXTS)
        plain = await packing.post("/embed", json=TEXTS, headers={"accept-encoding": "identity"})
        streamed = await packing.post("/embed", content=b'"awsl"\n' * 300, headers=stream)

    assert packed.headers["content-encoding"] == streamed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()
    assert len(streamed.text.splitlines()) == 301
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in (await client.post("/embed", json=TEXTS)).headers
