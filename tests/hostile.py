"""Random hostile input, the same for the same seed."""

from __future__ import annotations

import gzip
import random
import re
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


def damage(data: bytes, dice: random.Random) -> bytes:
    """Returns a file with something wrong in it: bits, pieces, numbers in its text, its length."""
    at = dice.randrange(len(data) + 1)
    length = min(dice.choice((1, 1, 4, 16, 512, 4096)), len(data) - at)
    kind = dice.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + length :]
    if kind == 2:
        return data[:at] + dice.randbytes(length) + data[at:]
    if kind == 3:
        numbers = list(re.finditer(rb"\d+", data[: 64 * 1024]))
        if numbers:
            chosen = dice.choice(numbers)
            other = dice.choice((b"0", b"-1", b"1e9", b"4.0", b"null", b'"4"', b"9" * dice.randrange(1, 40)))
            return data[: chosen.start()] + other + data[chosen.end() :]
    if kind == 4:
        return data[:at] + data[:length] + data[at + length :]
    changed = dice.randbytes(length) if kind == 5 else dice.choice((b"\0", b"\xff", b"\x80")) * length
    return data[:at] + changed + data[at + length :]


def make_value(seed: int) -> bytes:
    """Returns an answer in Redis' protocol to MGET, and in most cases not one that was asked for."""
    dice = random.Random(seed)

    def make(levels: int) -> bytes:
        kind = dice.randrange(9) if levels else dice.randrange(6)
        content = dice.randbytes(dice.randrange(30))
        if kind == 0:
            return b"$%d\r\n%b\r\n" % (len(content), content)
        if kind == 1:
            return b"$-1\r\n"
        if kind == 2:
            return b":%d\r\n" % dice.randrange(-(2**70), 2**70)
        if kind == 3:
            return (
                dice.choice((b"+OK", b"-ERR no", b"-MOVED 1 127.0.0.1:1", b"_", b"#t", b",nan", b"(9" + b"9" * 50))
                + b"\r\n"
            )
        if kind == 4:
            return b"$%d\r\n%b\r\n" % (dice.choice((2**40, len(content) + 1, 0, -7)), content)
        if kind == 5:
            return content
        inner = [make(levels - 1) for _ in range(dice.randrange(4))]
        head = dice.choice((b"*", b"*", b"~", b">", b"%"))
        return head + b"%d\r\n" % dice.choice((len(inner), len(inner), 2**16, -1)) + b"".join(inner)

    return make(3)
