"""All that requests hold is bounded together, and no request of legal size stops the others."""

from __future__ import annotations

import gc
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack

import httpx
import numpy as np
import orjson
import psutil
import pytest
from conftest import ClientOf
from processes import serving

from service.api.http.schemas import EmbedRequest, OpenAIRequest, SimilarRequest, TokenizeRequest
from service.errors import DanmakuError, InvalidRequest, MemoryFull, TooLarge
from service.memory import Memory
from service.metrics import Metrics
from service.settings import Settings
from service.shape import MAX_LEVELS, MAX_VALUES, check_shape, count_levels

MANY = 200_000
JSON = {"content-type": "application/json"}
PACKED = {"content-encoding": "gzip", "content-type": "application/json"}
LONGEST_PARSE_S = 0.5  # of processor time, in a thread, on a machine that may be busy; before, up to 7 s on the loop

# By name, a model and a body of legal size that is wrong in many places.
WRONG = {
    "embed: numbers": (EmbedRequest, b"[" + b",".join([b"1"] * MANY) + b"]"),
    "embed: a million numbers": (EmbedRequest, b"[" + b",".join([b"1"] * 1_000_000) + b"]"),
    "embed: objects": (EmbedRequest, b"[" + b",".join([b"{}"] * (MANY // 2)) + b"]"),
    "embed: unknown keys": (EmbedRequest, orjson.dumps({str(n): n for n in range(MANY)})),
    "similar: candidates": (SimilarRequest, orjson.dumps({"query": "a", "candidates": [1] * MANY})),
    "similar: query": (SimilarRequest, orjson.dumps({"query": [1] * MANY, "candidates": ["a"]})),
    "similar: vector": (SimilarRequest, orjson.dumps({"collection": "a", "vector": ["x"] * MANY})),
    "openai": (OpenAIRequest, orjson.dumps({"model": "m", "input": [None] * MANY})),
    "tokenize": (TokenizeRequest, orjson.dumps({"texts": [1] * MANY})),
    "brackets": (EmbedRequest, b"[" * 16_000_000),
    "empty objects": (EmbedRequest, b"{}" * 8_000_000),
}


@pytest.mark.parametrize(("model", "body"), WRONG.values(), ids=WRONG)
def test_a_body_that_is_wrong_everywhere_is_refused_quickly(model: type[EmbedRequest], body: bytes) -> None:
    """Processor time, since others are waiting for the same interpreter."""
    started = time.thread_time()
    with pytest.raises(DanmakuError) as refused:
        model.parse(body)
    assert time.thread_time() - started < LONGEST_PARSE_S
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "body",
    [
        b'["a, b [ c { d", "\\"", "\\\\", "[[[[[["]',
        json.dumps(["[" * 10_000, "," * 300_000, '"' * 1000, "\\" * 1001]).encode(),
        json.dumps([["草" * 100] * 10] * 100).encode(),
        json.dumps([{"a": {"b": [1, 2]}}] * 100).encode(),
    ],
)
def test_text_that_looks_like_structure_is_text(body: bytes) -> None:
    check_shape(body, "the body")


def test_the_limits_are_exact() -> None:
    check_shape(b"[" * MAX_LEVELS + b"]" * MAX_LEVELS, "the body")
    check_shape(b"[" + b",".join([b"1"] * (MAX_VALUES - 1)) + b"]", "the body")
    with pytest.raises(DanmakuError, match="65 levels"):
        check_shape(b"[" * (MAX_LEVELS + 1), "the body")
    with pytest.raises(TooLarge, match="too many values: 250002"):
        check_shape(b"[" + b",".join([b"1"] * (MAX_VALUES + 2)) + b"]", "the body")
    assert [count_levels(each) for each in (1, [], [1, [2]], {"a": [{}]})] == [0, 1, 2, 3]


def test_memory_is_refused_beyond_the_limit(metrics: Metrics) -> None:
    memory = Memory(1000, metrics)
    memory.take(600)
    with pytest.raises(MemoryFull, match="hold 600 bytes, this one needs 500 more, and the limit is 1000"):
        memory.take(500)
    memory.release(600)
    memory.take(1000)
    assert b"danmaku_held_bytes 1000.0" in metrics.text()


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("normalize", [False, True])
async def test_an_answer_in_pieces_is_the_same_answer(client_of: ClientOf, encoding: str, normalize: bool) -> None:
    texts = [f"a{number}" for number in range(9_000)] + [""]
    async with client_of(Settings()) as http:
        body = {"texts": texts, "encoding": encoding, "normalize": normalize}
        whole = (await http.post("/embed", json=body)).json()
        parts = [
            (await http.post("/embed", json={**body, "texts": texts[at : at + 50]})).json()["embeddings"]
            for at in range(0, len(texts), 50)
        ]
        assert whole["embeddings"] == [vector for part in parts for vector in part]
        assert [error["index"] for error in whole["errors"]] == [9_000]
        assert whole["truncated"] == []

        answer = await http.post("/embed", json=body, headers={"accept": "application/x-npy"})
        assert len(answer.content) == int(answer.headers["content-length"])
        matrix = np.frombuffer(answer.content[-9_001 * 8 :], "<f4").reshape(-1, 2)
        assert np.isnan(matrix[-1]).all()
        if encoding == "float":
            assert np.allclose(matrix[:-1], whole["embeddings"][:-1])


async def test_what_a_refused_request_held_is_free_at_once(client_of: ClientOf) -> None:
    """And does not wait for the garbage collector, in a cycle of an error and its traceback."""
    async with client_of(Settings()) as http:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                assert (await http.post("/embed", content=b"[" * 1000, headers=JSON)).status_code == 422
            assert not [each for each in gc.get_objects() if isinstance(each, InvalidRequest)]
        finally:
            gc.enable()


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_an_answer_for_openai_s_clients_comes_in_pieces_too(client_of: ClientOf, encoding: str) -> None:
    texts = [f"a{number}" for number in range(7_000)]
    async with client_of(Settings()) as http:

        async def ask(part: list[str]) -> httpx.Response:
            body = {"input": part, "model": "recording", "encoding_format": encoding}
            return await http.post("/v1/embeddings", json=body)

        answer = await ask(texts)
        parts = [(await ask(texts[at : at + 1000])).json()["data"] for at in range(0, len(texts), 1000)]

    assert "content-length" not in answer.headers
    whole = answer.json()
    assert [each["embedding"] for each in whole["data"]] == [each["embedding"] for part in parts for each in part]
    assert [each["index"] for each in whole["data"]] == list(range(len(texts)))
    assert whole["model"] == "recording" and whole["usage"]["total_tokens"] > 0


def resident(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 2**20)


def processor_s(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def head(length: int, *, packed: bool = False) -> bytes:
    encoding = b"Content-Encoding: gzip\r\n" if packed else b""
    return b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n" % (length, encoding)


@pytest.mark.timeout(600)
def test_unread_answers_and_unfinished_bodies_take_no_more_than_the_limit() -> None:
    """A hundred of each, of which 30 took 800 and 430 MB before."""
    answer = gzip.compress(json.dumps(["草"] * 10_000).encode())
    part = b'["' + b"a" * (15 * 2**20)
    with serving("--threads", "1") as (http, process):
        server = psutil.Process(process.pid)
        http.post("/embed", json=["草"])
        before = peak = resident(server)
        for attack in (head(len(answer), packed=True) + answer, head(16 * 2**20) + part):
            with ExitStack() as stack:
                for _ in range(100):
                    held = stack.enter_context(socket.create_connection(("127.0.0.1", http.base_url.port)))
                    held.settimeout(10)
                    try:
                        held.sendall(attack)
                    except OSError:
                        continue  # refused, as it should be
                    peak = max(peak, resident(server))
                assert http.get("/healthz").status_code == 200
                assert http.post("/embed", json=["草"]).status_code == 200
        assert peak - before < 400


@pytest.mark.timeout(600)
def test_two_kilobytes_of_gzip_stop_nobody() -> None:
    """A million wrong texts: 6.6 s and a gigabyte, before."""
    body = gzip.compress(b"[" + b",".join([b"1"] * 1_000_000) + b"]", 9)
    assert len(body) < 2500
    with serving("--threads", "1") as (http, process):
        server = psutil.Process(process.pid)
        before, spent = resident(server), processor_s(server)
        for _ in range(5):
            answer = http.post("/embed", content=body, headers=PACKED)
            assert (answer.status_code, answer.json()["error_type"]) == (413, "too_large")
        assert processor_s(server) - spent < 5 * LONGEST_PARSE_S
        assert resident(server) - before < 100


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b""),
        gzip.compress(b"") * 100_000,
        gzip.compress(b'["aa"]') + gzip.compress(b""),
        gzip.compress(b"[")[:10] + b"\0\0\0\xff\xff" * 100_000,  # empty blocks
    ],
    ids=["one empty member", "many", "one at the end", "empty blocks"],
)
async def test_gzip_that_unpacks_to_nothing_is_refused(client_of: ClientOf, body: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 60_000):
            yield body[at : at + 60_000]

    async with client_of(Settings()) as http:
        answer = await http.post("/embed", content=pieces(), headers=PACKED)
        assert (answer.status_code, answer.json()["error_type"]) == (400, "damaged_gzip")


async def test_tokenizing_ends_at_the_deadline(client: httpx.AsyncClient) -> None:
    """Which is short for the tiny model, too."""
    answer = await client.post("/tokenize", json={"texts": ["草" * 6000]}, headers={"x-timeout-ms": "1"})

    assert answer.status_code in (200, 504)
