"""Random hostile input, the same for the same seed."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable

import orjson

Choice = Callable[[random.Random], bytes]
PATHS = (
    *("/embed", "/embed?encoding=base64", "/similar", "/tokenize", "/encode", "/v1/embeddings", "/playground/embed"),
    *("/collections", "/collections/room", "/collections/room/danmaku", "/collections/room/delete", "/collections/;/"),
    *("/collections/room/rebuild", "/collections/room/map", "/collections/%00/danmaku/%ff", "/status/server"),
    *("/docs", "/openapi.json", "/static/../../etc/passwd", "/metrics", "/healthz/", "/" + "a" * 3000),
)
HEADERS = (
    {},
    *[{"content-type": "application/json"}] * 10,  # or hardly anything would be read
    {"content-type": "application/x-ndjson"},
    {"content-type": "text/plain", "origin": "http://evil.example"},
    {"content-encoding": "gzip", "content-type": "application/json"},
    {"content-encoding": "br"},
    {"host": "evil.example"},
    {"x-timeout-ms": "0"},
    {"x-timeout-ms": "1", "content-type": "application/json"},
    {"x-request-id": "a b"},
    {"accept": "application/x-npy", "content-type": "application/json"},
    {"sec-fetch-site": "cross-site"},
)
BODIES: tuple[Choice, ...] = (
    lambda _: b"",
    lambda dice: dice.randbytes(dice.randrange(2000)),
    lambda dice: b"[" * dice.randrange(3000),
    lambda dice: b"[" + b",".join([b"1"] * dice.randrange(1, 100_000)) + b"]",
    lambda dice: gzip.compress(b"[" + b",".join([b"1"] * dice.randrange(1, 300_000)) + b"]"),
    lambda dice: gzip.compress(b"") * dice.randrange(1, 1000),
    lambda dice: b'{"texts":["\\ud800", "", " ", "\\u0000"], "normalize": %d}' % dice.randrange(3),
    lambda dice: orjson.dumps({"query": ["a"] * dice.randrange(50), "candidates": ["b"] * dice.randrange(50)}),
    lambda dice: orjson.dumps({"query": "a", "collection": "room", "filter": _random_json(dice, 5)}),
    lambda dice: orjson.dumps({"collection": "room", "vector": [1e300] * dice.randrange(300)}),
    lambda dice: orjson.dumps({"filter": {"and": [{}] * dice.randrange(1000)}}),
    lambda dice: orjson.dumps([{"text": "a", "metadata": {"b": _nested_json(dice, dice.randrange(60))}}]),
    lambda dice: orjson.dumps(_random_json(dice, 4)),
    lambda dice: b"\n".join(orjson.dumps(_random_json(dice, 2)) for _ in range(dice.randrange(100))),
    lambda dice: orjson.dumps({"id": _random_json(dice, 3), "texts": ["a"] * dice.randrange(20)}),
    lambda dice: orjson.dumps({"input": "a", "model": "danmaku-bert-mini", "dimensions": dice.randrange(-2, 400)}),
    lambda _: b'{"texts": [' + b"9" * 5000 + b"]}",
)


def _random_json(dice: random.Random, levels: int) -> object:
    """A value of at most that many levels, which has up to three values at each: so few levels, or it has no end."""
    kind = dice.randrange(8) if levels else dice.randrange(5)
    plain: tuple[object, ...] = (None, True, dice.randrange(-(2**40), 2**40), dice.random(), "草" * dice.randrange(20))
    if kind < 5:
        return plain[kind]
    inner = [_random_json(dice, levels - 1) for _ in range(dice.randrange(1, 4))]
    names = ("and", "or", "not", "in", "gte", "room", "text", "id", "metadata", "ttl_s", "")
    return inner if kind == 5 else {dice.choice(names): each for each in inner}


def _nested_json(dice: random.Random, levels: int) -> object:
    value = _random_json(dice, 3)
    for _ in range(levels):
        value = dice.choice(([value], {"a": value}))
    return value


def make_request(seed: int) -> tuple[str, str, dict[str, str], bytes]:
    """Returns a method, a path, headers and a body."""
    dice = random.Random(seed)
    method = dice.choice((*["POST"] * 8, "GET", "PUT", "DELETE", "PATCH"))
    return method, dice.choice(PATHS), dice.choice(HEADERS), dice.choice(BODIES)(dice)


PARTS: tuple[Choice, ...] = (
    lambda _: b"",
    lambda dice: dice.randbytes(dice.randrange(300)),
    lambda _: b"SHOW_VOCAB",
    lambda _: b"SHOW_STATUS",
    lambda _: b"TERMINATION",
    lambda _: orjson.dumps(["草", "awsl"]),
    lambda dice: orjson.dumps([""] * dice.randrange(20_000)),
    lambda dice: b"[" * dice.randrange(3000),
    lambda dice: str(dice.randrange(-5, 10**6)).encode(),
    lambda _: b"1#2@3",
)


def make_message(seed: int) -> list[bytes]:
    """Returns the frames of a message to a worker: one to four."""
    dice = random.Random(seed)
    frames = [dice.choice((b"deaf", b"x", b"")), *(dice.choice(PARTS)(dice) for _ in range(3))]
    return frames[: dice.randrange(1, 5)]
