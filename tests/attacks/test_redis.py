"""Redis is not trusted: whatever it answers is a miss, and a misspelt URL keeps its password."""

from __future__ import annotations

import struct
from collections.abc import Callable

import google_crc32c
import numpy as np
import pytest
from conftest import ClientOf
from fakes import fake_redis

from service.cache.open import open_cache
from service.cache.redis import HEADER
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.settings import Settings
from service.stores.open import open_store

PASSWORD = "S3CRET"


def value(numbers: bytes, code: bytes = b"f4") -> bytes:
    """A value whose length and checksum are right."""
    return HEADER.pack(code, len(numbers), google_crc32c.value(numbers)) + numbers


def bulk(content: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(content), content)


def of_each(element: bytes) -> Callable[[int], bytes]:
    return lambda keys: b"*%d\r\n" % keys + element * keys


ANSWERS: dict[str, Callable[[int], bytes]] = {
    "integer": lambda _: b":7\r\n",
    "null array": lambda _: b"*-1\r\n",
    "null": lambda _: b"$-1\r\n",
    "bulk string": lambda _: bulk(b"hello"),
    "status": lambda _: b"+OK\r\n",
    "error": lambda _: b"-ERR no\r\n",
    "empty array": lambda _: b"*0\r\n",
    "array too short": lambda keys: b"*%d\r\n" % (keys - 1) + b"$-1\r\n" * (keys - 1),
    "array too long": lambda keys: b"*%d\r\n" % (keys + 1) + b"$-1\r\n" * (keys + 1),
    "map": lambda _: b"%1\r\n+a\r\n+b\r\n",
    "double": lambda _: b",1.5\r\n",
    "boolean": lambda _: b"#t\r\n",
    "garbage": lambda _: b"\x00\xff garbage\r\n",
    "integers": of_each(b":1\r\n"),
    "arrays": of_each(b"*1\r\n:1\r\n"),
    "errors": of_each(b"-ERR no\r\n"),
    "f2 of 3 bytes": of_each(bulk(value(b"abc", b"f2"))),
    "f4 of 3 bytes": of_each(bulk(value(b"abc"))),
    "f4 of no bytes": of_each(bulk(value(b""))),
    "f4 of one number": of_each(bulk(value(struct.pack("<f", 1)))),
    "f4 of three numbers": of_each(bulk(value(struct.pack("<fff", 1, 2, 3)))),
    "f2 of three numbers": of_each(bulk(value(struct.pack("<eee", 1, 2, 3), b"f2"))),
    "NaN": of_each(bulk(value(np.full(2, np.nan, "<f4").tobytes()))),
    "infinity": of_each(bulk(value(np.array([1, np.inf], "<f4").tobytes()))),
    "infinity in f2": of_each(bulk(value(np.array([1, np.inf], "<f2").tobytes(), b"f2"))),
    "another format": of_each(bulk(value(b"12345678", b"i8"))),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_a_wrong_answer_is_a_miss(client_of: ClientOf, answer: Callable[[int], bytes]) -> None:
    """So the texts are encoded, and what Redis said is not in the memory's cache either."""
    async with fake_redis(answer) as url, client_of(Settings(cache=url)) as http:
        for _ in range(2):
            found = await http.post("/embed", json=["aa", "b"])
            assert found.status_code == 200
            assert found.json()["embeddings"] == [[2, 194], [1, 98]]
            assert found.json()["errors"] == []
        similar = await http.post("/similar", json={"query": "aa", "candidates": ["aa", "b"]})
        assert similar.status_code == 200


async def test_a_right_answer_is_a_hit(client_of: ClientOf) -> None:
    """Which shows that the fake server is understood."""
    stored = bulk(value(np.array([5, 6], "<f4").tobytes()))
    async with fake_redis(of_each(stored)) as url, client_of(Settings(cache=url)) as http:
        embeddings = [(await http.post("/embed", json=[f"text {n}"])).json()["embeddings"] for n in range(20)]

    assert [[5, 6]] in embeddings  # a busy machine may miss some


@pytest.mark.parametrize(
    "url",
    [
        f"redis+tls://:{PASSWORD}@127.0.0.1/0",
        f"redis://:{PASSWORD}/x@127.0.0.1/0",
        f"redis://:{PASSWORD}@127.0.0.1:port/0",
        f"redis://:{PASSWORD}@127.0.0.1:6379/0?unknown={PASSWORD}",
        f"rediss://:{PASSWORD}@127.0.0.1:6379/0?ssl_cert_reqs={PASSWORD}",
        f"{PASSWORD}",
        f"{PASSWORD}1://x",
    ],
)
async def test_a_misspelt_url_keeps_its_password(url: str, metrics: Metrics) -> None:
    with pytest.raises(ConfigurationError) as stores:
        await open_store(url)
    with pytest.raises(ConfigurationError) as cache:
        open_cache(url, max_bytes=0, ttl_s=1, number_format="float32", metrics=metrics)

    for error in (stores, cache):
        assert PASSWORD not in str(error.value) and PASSWORD[:2] not in str(error.value)
