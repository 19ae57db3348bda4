"""The messages of bert-serving-server 1.10: frames ↔ dataclasses, the same at both ends, and no sockets.

docs/wire-protocol.md draws every frame. A request travels from PUSH to PULL, its answer from the server's publisher to
the client's SUB, with the client's identity in front as the topic.

Three things are ours and no genuine peer is troubled by them:

1. The topic of our answers is the identity and a zero byte. A subscription matches every topic that begins with it, so
   that a client `user1` of the genuine server gets the vectors of `user10`; `user1\\0` begins only its own.
2. A request that cannot be served has an answer. The genuine server has no such thing, and its callers wait for ever;
   ours says why in the place of the array's dtype, where the genuine client trips over it and shows the sentence.
3. Ours tells its vocabulary to whoever sends SHOW_VOCAB. A genuine server would die of the word: only a server whose
   answer to SHOW_CONFIG has a `danmaku_version` is to be asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

SERVER_VERSION = "1.10.0"  # what the genuine client compares with its own
SHOW_CONFIG, SHOW_STATUS, TERMINATION = b"SHOW_CONFIG", b"SHOW_STATUS", b"TERMINATION"
SHOW_VOCAB = b"SHOW_VOCAB"
COMMANDS = (SHOW_CONFIG, SHOW_STATUS, SHOW_VOCAB, TERMINATION)
# In the order of the genuine server's numbers, which SHOW_CONFIG gives.
STRATEGIES = ("NONE", "REDUCE_MAX", "REDUCE_MEAN", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED")
END_OF_TOPIC = b"\0"
MAX_IDENTITY_BYTES = 255
DEFAULT_PORTS = (5555, 5556)  # of requests, of answers
MAX_MESSAGE_BYTES = 64 * 2**20  # our worker hangs up on whoever sends a larger one
MAX_DIGITS = 18  # of a number, so that it fits 64 bits

Texts = list[str] | list[list[str]]  # danmaku, or danmaku cut into tokens


class WireError(ValueError):
    """The frames are none of the protocol's. `client` and `request_id` are set as far as they could be read."""

    def __init__(self, message: str, client: bytes = b"", request_id: bytes = b"") -> None:
        super().__init__(message)
        self.client, self.request_id = client, request_id


@dataclass(frozen=True, slots=True)
class Command:
    """`name` is one of COMMANDS."""

    client: bytes
    request_id: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class Encode:
    """A list of texts to encode, still as JSON: reading 10,000 of them takes a while, and may be put off."""

    client: bytes
    request_id: bytes
    body: bytes
    count: int  # of texts, as the client says

    def texts(self) -> Texts:
        """Raises WireError unless the body is `count` strings, or as many lists of strings."""
        try:
            texts = json.loads(self.body)
        except (ValueError, RecursionError):
            raise self._wrong("the second frame is not JSON") from None
        if not isinstance(texts, list):
            raise self._wrong("the second frame is not a JSON list of texts")
        if len(texts) != self.count:
            raise self._wrong(f"the last frame says {self.count} texts, the second has {len(texts)}")
        if all(isinstance(text, str) for text in texts):
            return [_without_surrogates(text) for text in texts]
        if all(isinstance(text, list) and all(isinstance(token, str) for token in text) for text in texts):
            return [[_without_surrogates(token) for token in text] for text in texts]
        raise self._wrong("expected a list of strings, or of lists of strings if the texts are tokenized")

    def _wrong(self, message: str) -> WireError:
        return WireError(message, self.client, self.request_id)


def read_request(frames: Sequence[bytes]) -> Command | Encode:
    """Raises WireError for anything but a request."""
    if len(frames) != 4:
        raise WireError(f"expected 4 frames [identity, message, request id, count], got {len(frames)}")
    client, message, request_id, count = frames
    if END_OF_TOPIC in client or len(client) > MAX_IDENTITY_BYTES:
        raise WireError(f"an identity has at most {MAX_IDENTITY_BYTES} bytes and no zero byte among them")
    if not _is_number(request_id):
        raise WireError(f"expected a decimal number as the request id, got {request_id[:20]!r}")
    if not _is_number(count):
        raise WireError(f"expected a decimal number as the count, got {count[:20]!r}", client, request_id)
    if message in COMMANDS:
        return Command(client, request_id, message)
    return Encode(client, request_id, message, int(count))


def write_encode(client: bytes, request_id: int, texts: Texts) -> list[bytes]:
    return [client, orjson.dumps(texts), b"%d" % request_id, b"%d" % len(texts)]


def write_command(client: bytes, request_id: int, name: bytes) -> list[bytes]:
    return [client, name, b"%d" % request_id, b"0"]


def write_vectors(
    client: bytes, request_id: bytes, vectors: np.ndarray, tokens: Sequence[Sequence[str]] | None = None
) -> list[bytes | memoryview]:
    """`vectors` [n, dim], or [n, t, dim] without pooling; `tokens` of each text, if the server shows them."""
    head = {"dtype": str(vectors.dtype), "shape": vectors.shape, "tokens": "" if tokens is None else tokens}
    return [client + END_OF_TOPIC, orjson.dumps(head), np.ascontiguousarray(vectors).data, request_id]


def write_error(client: bytes, request_id: bytes, message: str, error_type: str) -> list[bytes]:
    head = {"dtype": message, "shape": [0], "tokens": "", "error": message, "error_type": error_type}
    return [client + END_OF_TOPIC, orjson.dumps(head), b"", request_id]


def write_json(client: bytes, request_id: bytes, content: Mapping[str, Any]) -> list[bytes]:
    """The answer to SHOW_CONFIG, SHOW_STATUS and SHOW_VOCAB."""
    return [client + END_OF_TOPIC, orjson.dumps(content), request_id]


@dataclass(frozen=True, slots=True)
class Vectors:
    request_id: int
    array: np.ndarray  # [n, dim], or [n, t, dim] without pooling
    tokens: list[list[str]] | None


@dataclass(frozen=True, slots=True)
class Failure:
    request_id: int
    error: str
    error_type: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a server says of itself."""

    request_id: int
    values: dict[str, Any]


def read_reply(frames: Sequence[bytes]) -> Vectors | Failure | Content:
    """An answer of our worker or of a genuine server. Raises WireError for anything else."""
    if len(frames) not in (3, 4) or not _is_number(frames[-1]):
        raise WireError(f"expected 3 or 4 frames, the last a request id, got {len(frames)}")
    request_id = int(frames[-1])
    try:
        head = orjson.loads(frames[1])
        if len(frames) == 3:
            return Content(request_id, dict(head))
        if "error" in head:
            return Failure(request_id, head["error"], head["error_type"])
        array = np.frombuffer(frames[2], head["dtype"]).reshape(head["shape"])
        return Vectors(request_id, array, head.get("tokens") or None)
    except (ValueError, TypeError, KeyError) as error:
        message = f"the answer to request {request_id} cannot be read: {error}"
        raise WireError(message, request_id=frames[-1]) from None


def worker_address(url: str) -> tuple[str, int, int]:
    """Host, port and port_out of `bert://HOST[:PORT[:PORT_OUT]]`. Raises ValueError."""
    host, *ports = url.removeprefix("bert://").rstrip("/").split(":")
    if not host or len(ports) > 2 or not all(port.isdecimal() and int(port) < 2**16 for port in ports):
        raise ValueError(f"{url!r} is no worker: expected bert://HOST[:PORT[:PORT_OUT]]")
    port, port_out = [*map(int, ports), *DEFAULT_PORTS[len(ports) :]]
    return host, port, port_out


def _is_number(frame: bytes) -> bool:
    return frame.isdigit() and len(frame) <= MAX_DIGITS


def _without_surrogates(text: str) -> str:
    """JSON can carry half an emoji (`"\\ud83d"`), as a client makes it that cuts UTF-16 anywhere; no tokenizer can."""
    return text if text.isascii() else text.encode("utf-8", "ignore").decode("utf-8")
