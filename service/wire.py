"""Converts between frames and dataclasses of bert-serving-server 1.10, for both ends, without sockets.

docs/wire-protocol.md draws every frame. A request travels from PUSH to PULL, its answer from the server's publisher to
the client's SUB, with the client's identity in front as the topic.

Three extensions are ours; genuine peers are not affected by them:

1. The topic of an answer is the identity and a zero byte. A subscription matches every topic that starts with it, so
   client `user1` of a genuine server also receives the vectors of `user10`; `user1\\0` is no prefix of `user10\\0`.
2. A request that cannot be served gets an error. The genuine server sends nothing, and its client waits forever. Ours
   puts the message where the array's dtype belongs, so the genuine client fails with an exception that shows it.
3. SHOW_VOCAB returns the vocabulary. It crashes a genuine server, so it must only be sent to a server whose answer to
   SHOW_CONFIG has a `danmaku_version`.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

SERVER_VERSION = "1.10.0"  # the genuine client compares it with its own version
SHOW_CONFIG, SHOW_STATUS, TERMINATION = b"SHOW_CONFIG", b"SHOW_STATUS", b"TERMINATION"
SHOW_VOCAB = b"SHOW_VOCAB"
COMMANDS = (SHOW_CONFIG, SHOW_STATUS, SHOW_VOCAB, TERMINATION)
# In the order of the genuine server's numbers, which SHOW_CONFIG gives.
STRATEGIES = ("NONE", "REDUCE_MAX", "REDUCE_MEAN", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED")
END_OF_TOPIC = b"\0"
MAX_IDENTITY_BYTES = 255
DEFAULT_PORTS = (5555, 5556)  # for requests and for answers
MAX_MESSAGE_BYTES = 64 * 2**20  # our worker disconnects the sender of a larger one
MAX_DIGITS = 18  # of a number, which fits into 64 bits

Texts = list[str] | list[list[str]]  # danmaku, or the tokens of danmaku


class WireError(ValueError):
    """Malformed frames. `client` and `request_id` are set if they could be read."""

    def __init__(self, message: str, client: bytes = b"", request_id: bytes = b"") -> None:
        super().__init__(message)
        self.client, self.request_id = client, request_id


@dataclass(frozen=True, slots=True)
class Command:
    """A request without texts; `name` is one of COMMANDS."""

    client: bytes
    request_id: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """A list of texts to encode, still as JSON: parsing 10,000 of them takes a while, and may be done in a thread."""

    client: bytes
    request_id: bytes
    body: bytes
    count: int  # of texts, according to the client

    def parse_texts(self) -> Texts:
        """Raises WireError unless the body is `count` strings, or as many lists of strings."""
        try:
            texts = json.loads(self.body)
        except (ValueError, RecursionError):
            raise self._error("invalid second frame: not JSON; expected a list of texts") from None
        if not isinstance(texts, list):
            raise self._error("invalid second frame: not a JSON list; expected a list of texts")
        if len(texts) != self.count:
            raise self._error(f"the last frame says {self.count} texts, the second has {len(texts)}")
        if all(isinstance(text, str) for text in texts):
            return [_drop_surrogates(text) for text in texts]
        if all(isinstance(text, list) and all(isinstance(token, str) for token in text) for text in texts):
            return [[_drop_surrogates(token) for token in text] for text in texts]
        raise self._error("invalid texts; expected a list of strings, or of lists of strings if they are tokenized")

    def _error(self, message: str) -> WireError:
        return WireError(message, self.client, self.request_id)


def read_request(frames: Sequence[bytes]) -> Command | EncodeRequest:
    """Parses a request. Raises WireError."""
    if len(frames) != 4:
        raise WireError(f"invalid request: {len(frames)} frames; expected 4 [identity, message, request id, count]")
    client, message, request_id, count = frames
    if END_OF_TOPIC in client or len(client) > MAX_IDENTITY_BYTES:
        raise WireError(f"invalid identity; expected at most {MAX_IDENTITY_BYTES} bytes without a zero byte")
    if not _is_number(request_id):
        raise WireError(f"invalid request id: {request_id[:20]!r}; expected a decimal number")
    if not _is_number(count):
        raise WireError(f"invalid count: {count[:20]!r}; expected a decimal number", client, request_id)
    if message in COMMANDS:
        return Command(client, request_id, message)
    return EncodeRequest(client, request_id, message, int(count))


def write_encode(client: bytes, request_id: int, texts: Texts) -> list[bytes]:
    return [client, orjson.dumps(texts), b"%d" % request_id, b"%d" % len(texts)]


def write_command(client: bytes, request_id: int, name: bytes) -> list[bytes]:
    return [client, name, b"%d" % request_id, b"0"]


def write_vectors(
    client: bytes, request_id: bytes, vectors: np.ndarray, tokens: Sequence[Sequence[str]] | None = None
) -> list[bytes | memoryview]:
    """Answers with vectors [n, dim], or [n, t, dim] without pooling, and the tokens of each text if they are shown."""
    head = {"dtype": str(vectors.dtype), "shape": vectors.shape, "tokens": "" if tokens is None else tokens}
    return [client + END_OF_TOPIC, orjson.dumps(head), np.ascontiguousarray(vectors).data, request_id]


def write_error(client: bytes, request_id: bytes, message: str, error_type: str) -> list[bytes]:
    head = {"dtype": message, "shape": [0], "tokens": "", "error": message, "error_type": error_type}
    return [client + END_OF_TOPIC, orjson.dumps(head), b"", request_id]


def write_json(client: bytes, request_id: bytes, content: Mapping[str, Any]) -> list[bytes]:
    """Answers SHOW_CONFIG, SHOW_STATUS and SHOW_VOCAB."""
    return [client + END_OF_TOPIC, orjson.dumps(content), request_id]


@dataclass(frozen=True, slots=True)
class VectorsReply:
    request_id: int
    array: np.ndarray  # [n, dim], or [n, t, dim] without pooling
    tokens: list[list[str]] | None


@dataclass(frozen=True, slots=True)
class ErrorReply:
    request_id: int
    error: str
    error_type: str


@dataclass(frozen=True, slots=True)
class JsonReply:
    """The answer to a SHOW_ command."""

    request_id: int
    values: dict[str, Any]


def read_reply(frames: Sequence[bytes]) -> VectorsReply | ErrorReply | JsonReply:
    """Parses an answer of our worker or of a genuine server. Raises WireError."""
    if len(frames) not in (3, 4) or not _is_number(frames[-1]):
        raise WireError(f"invalid answer: {len(frames)} frames; expected 3 or 4, the last a request id")
    request_id = int(frames[-1])
    try:
        head = orjson.loads(frames[1])
        if len(frames) == 3:
            return JsonReply(request_id, dict(head))
        if "error" in head:
            return ErrorReply(request_id, head["error"], head["error_type"])
        array = np.frombuffer(frames[2], head["dtype"]).reshape(head["shape"])
        return VectorsReply(request_id, array, head.get("tokens") or None)
    except (ValueError, TypeError, KeyError) as error:
        message = f"invalid answer to request {request_id}: {error}"
        raise WireError(message, request_id=frames[-1]) from None


def parse_address(url: str) -> tuple[str, int, int]:
    """Returns host, port and port_out of `bert://HOST[:PORT[:PORT_OUT]]`. Raises ValueError."""
    host, *ports = url.removeprefix("bert://").rstrip("/").split(":")
    if not host or len(ports) > 2 or not all(port.isdecimal() and int(port) < 2**16 for port in ports):
        raise ValueError(f"invalid worker address: {url!r}; expected bert://HOST[:PORT[:PORT_OUT]]")
    port, port_out = [*map(int, ports), *DEFAULT_PORTS[len(ports) :]]
    return host, port, port_out


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def advise(host: str) -> str:
    """Returns advice for the error that a worker does not answer, if it is on another machine."""
    return "" if is_loopback(host) else "; a worker answers other machines only if it was started with -bind 0.0.0.0"


def _is_number(frame: bytes) -> bool:
    return frame.isdigit() and len(frame) <= MAX_DIGITS


def _drop_surrogates(text: str) -> str:
    """Drops half emojis (`"\\ud83d"`), which clients that cut UTF-16 send and no tokenizer accepts."""

    return text if text.isascii() else text.encode("utf-8", "ignore").decode("utf-8")
