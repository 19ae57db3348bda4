"""The wire protocol: frames that the genuine client and server 1.10 exchanged, read and written byte for byte."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from service import wire

# Captured by tests/classic/capture_frames.py from the genuine client and the genuine server.
CAPTURED = {
    kind: [[base64.b64decode(frame) for frame in frames] for frames in messages]
    for kind, messages in json.loads((Path(__file__).parents[1] / "data/wire/frames.json").read_text("utf-8")).items()
}
TEXTS = ["草", "awsl 晚安"]
TOKENS = [["草", "awsl"], ["未知"]]


def test_the_genuine_clients_requests_are_parsed() -> None:
    config, texts, tokens, status, terminate = map(wire.read_request, CAPTURED["requests"])

    assert config == wire.Command(b"captured", b"1", wire.SHOW_CONFIG)
    assert isinstance(texts, wire.EncodeRequest) and texts.parse_texts() == TEXTS
    assert isinstance(tokens, wire.EncodeRequest) and tokens.parse_texts() == TOKENS
    assert status == wire.Command(b"captured", b"4", wire.SHOW_STATUS)
    assert terminate == wire.Command(b"captured", b"5", wire.TERMINATION)


def test_our_requests_equal_the_genuine_clients() -> None:
    """Only the formatting of JSON differs."""
    config, texts, tokens, *_ = CAPTURED["requests"]

    assert wire.write_command(b"captured", 1, wire.SHOW_CONFIG) == config
    for ours, captured in (
        (wire.write_encode(b"captured", 2, TEXTS), texts),
        (wire.write_encode(b"captured", 3, TOKENS), tokens),
    ):
        assert [ours[0], json.loads(ours[1]), *ours[2:]] == [captured[0], json.loads(captured[1]), *captured[2:]]


def test_the_genuine_servers_answers_are_parsed() -> None:
    config, vectors, tokens, _ = map(wire.read_reply, CAPTURED["answers"])

    assert isinstance(config, wire.JsonReply) and config.values["server_version"] == wire.SERVER_VERSION
    assert isinstance(vectors, wire.VectorsReply) and vectors.request_id == 2
    assert vectors.array.shape == (2, 256) and vectors.array.dtype == np.float32
    assert vectors.tokens == [["[CLS]", "草", "[SEP]"], ["[CLS]", "awsl", "晚", "安", "[SEP]"]]
    assert isinstance(tokens, wire.VectorsReply) and tokens.tokens == [
        ["[CLS]", "草", "awsl", "[SEP]"],
        ["[CLS]", "[UNK]", "[SEP]"],
    ]


def test_our_answer_is_the_genuine_one_under_a_topic_that_ends() -> None:
    captured = CAPTURED["answers"][1]
    vectors = np.frombuffer(captured[2], np.float32).reshape(2, 256)
    tokens = json.loads(captured[1])["tokens"]

    topic, head, array, request_id = wire.write_vectors(b"captured", b"2", vectors, tokens)

    assert topic == captured[0] + b"\0"
    assert json.loads(head) == json.loads(captured[1])
    assert bytes(array) == captured[2]
    assert request_id == captured[3]


def test_a_server_that_shows_no_tokens_says_so_as_the_genuine_one_does() -> None:
    _, head, _, _ = wire.write_vectors(b"c", b"1", np.zeros((1, 2), np.float32))

    assert json.loads(head) == {"dtype": "float32", "shape": [1, 2], "tokens": ""}


@pytest.mark.parametrize(
    ("frames", "client", "complaint"),
    [
        ([], b"", "expected 4 "),
        ([b"one"], b"", "expected 4 "),
        ([b"c", b"[]", b"1", b"0", b"more"], b"", "expected 4 "),
        ([b"c", b"[]", b"x", b"0"], b"", "request id"),
        ([b"c", b"[]", b"-1", b"0"], b"", "request id"),
        ([b"c", b"[]", b"9" * 19, b"0"], b"", "request id"),
        ([b"c", b"[]", b"1", b""], b"c", "count"),
        ([b"c", b"[]", b"1", "１".encode()], b"c", "count"),
        ([b"a\0b", b"[]", b"1", b"0"], b"", "zero byte"),
        ([b"c" * 256, b"[]", b"1", b"0"], b"", "at most 255 bytes"),
    ],
)
def test_an_invalid_request_is_refused(frames: list[bytes], client: bytes, complaint: str) -> None:
    """It is answered if the frames say who sent it."""
    with pytest.raises(wire.WireError, match=complaint) as refused:
        wire.read_request(frames)

    assert refused.value.client == client


@pytest.mark.parametrize(
    ("body", "count", "complaint"),
    [
        (b"", b"0", "not JSON"),
        (b"\xff\xfe", b"1", "not JSON"),
        (b"[" * 100_000, b"1", "not JSON"),
        (b'"awsl"', b"4", "not a JSON list"),
        (b"{}", b"0", "not a JSON list"),
        (b'["a"]', b"2", "says 2 texts, the second has 1"),
        (b'["a", "b"]', b"1", "says 1 texts, the second has 2"),
        (b'["a", 1]', b"2", "a list of strings"),
        (b'["a", ["b"]]', b"2", "a list of strings"),
        (b'[["a", null]]', b"1", "a list of strings"),
    ],
)
def test_an_invalid_body_is_refused(body: bytes, count: bytes, complaint: str) -> None:
    request = wire.read_request([b"c", body, b"7", count])
    assert isinstance(request, wire.EncodeRequest)

    with pytest.raises(wire.WireError, match=complaint) as refused:
        request.parse_texts()

    assert (refused.value.client, refused.value.request_id) == (b"c", b"7")


@pytest.mark.parametrize("identity", [b"", b"#", b"a@1", b"user@example.org#5", b"\xff\x01", "阿夸".encode()])
def test_any_identity_without_a_zero_byte_is_valid(identity: bytes) -> None:
    """`#` and `@` end the genuine server."""
    request = wire.read_request([identity, b'["a"]', b"1", b"1"])

    assert request.client == identity
    assert wire.write_json(identity, b"1", {})[0] == identity + b"\0"


def test_half_an_emoji_is_removed() -> None:
    """Clients that count UTF-16 units cut emoji in two; no tokenizer could read the rest."""
    request = wire.read_request([b"c", b'["a\\ud83d", "\\ude02b"]', b"1", b"2"])

    assert isinstance(request, wire.EncodeRequest) and request.parse_texts() == ["a", "b"]


def test_an_error_survives_the_wire() -> None:
    frames = wire.write_error(b"c", b"7", "the queue is full", "overloaded")

    assert wire.read_reply([bytes(frame) for frame in frames]) == wire.ErrorReply(7, "the queue is full", "overloaded")


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"c", b"{}"],
        [b"c", b"{}", b"x"],
        [b"c", b"{}", b"", b"1"],
        [b"c", b"[]", b"", b"1"],
        [b"c", b'{"dtype": "float32", "shape": [3]}', b"12345678", b"1"],
        [b"c", b'{"dtype": "nonsense", "shape": [0]}', b"", b"1"],
        [b"c", b"not JSON", b"1"],
    ],
)
def test_an_invalid_answer_is_an_error(frames: list[bytes]) -> None:
    with pytest.raises(wire.WireError):
        wire.read_reply(frames)


def test_a_worker_on_another_machine_that_does_not_answer_may_lack_a_flag() -> None:
    assert "-bind 0.0.0.0" in wire.advise("192.0.2.7") and "-bind 0.0.0.0" in wire.advise("workers.example")
    assert [wire.advise(host) for host in ("127.0.0.1", "::1", "localhost")] == ["", "", ""]


def test_a_url_names_a_worker() -> None:
    assert wire.parse_address("bert://host") == ("host", 5555, 5556)
    assert wire.parse_address("bert://host:7000") == ("host", 7000, 5556)
    assert wire.parse_address("bert://host:7000:7001") == ("host", 7000, 7001)


@pytest.mark.parametrize("url", ["bert://", "bert://:5555", "bert://h:x", "bert://h:1:2:3", "bert://h:70000"])
def test_an_invalid_worker_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected bert://HOST"):
        wire.parse_address(url)
