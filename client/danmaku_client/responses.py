"""What a gateway's answers mean: bytes and JSON to dataclasses. No sockets here; `client.py` has them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import orjson

T = TypeVar("T")


@dataclass(frozen=True)
class TextError:
    """Says why the text at `index` of a list has no vector."""

    index: int
    error: str
    error_type: str  # "empty_text", "unspellable" or "text_too_long"


class GatewayError(Exception):
    """What a gateway refused, or that none answered: `str(error)` is a sentence, `error_type` what to branch on.

    Beside the gateway's own types there are "unreachable"; "out_of_time", if the deadline passed here; "bad_answer", if
    what answers is no gateway.
    """

    def __init__(
        self,
        message: str,
        error_type: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.status = status  # None: there was no answer
        self.request_id = request_id  # by which the gateway's log names the request
        self.retry_after_s = retry_after_s

    @property
    def is_passing(self) -> bool:
        """Whether the same request may well succeed in a moment."""
        return self.status in (429, 503) or self.error_type == "unreachable"


@dataclass(frozen=True)
class Info:
    """What a gateway has loaded, and the limits that requests have to keep."""

    version: str
    model: str
    fingerprint: str
    dim: int
    max_seq_len: int
    pooling_layer: list[int]
    pooling_strategy: str
    max_request_texts: int
    max_body_bytes: int


@dataclass(frozen=True)
class Embedded:
    """What became of a list of texts."""

    vectors: np.ndarray  # [n, dim] float32; a row of NaN where there is an error
    model: str
    fingerprint: str  # equal fingerprints, comparable vectors
    truncated: list[int]  # indices of texts that were embedded without their end
    errors: list[TextError]  # in order of index


@dataclass(frozen=True)
class Match:
    id: str
    text: str
    score: float  # cosine, −1 to 1
    metadata: dict[str, Any]
    count: int = 1  # in a collection: how often it was added


@dataclass(frozen=True)
class Similar:
    model: str
    fingerprint: str
    matches: list[list[Match]]  # of each query, best first
    query_errors: list[TextError]
    candidate_errors: list[TextError]


@dataclass(frozen=True)
class Item:
    """A danmaku on its way into a collection, where a bare text would say too little."""

    text: str
    id: str | None = None  # by default a hash of the text
    metadata: dict[str, Any] = field(default_factory=dict)
    ttl_s: float | None = None  # how long it stays; None: for good


@dataclass(frozen=True)
class Collection:
    name: str
    count: int  # of items; may include some that expired a moment ago
    dim: int
    fingerprint: str
    bytes: int
    created_at: float  # Unix time, seconds


@dataclass(frozen=True)
class Added:
    added: int
    replaced: int
    refused: int
    reasons: list[TextError]  # of the first hundred refused ones


@dataclass(frozen=True)
class Page:
    """Of the danmaku of a collection, each with id, text, metadata, count and expires_at."""

    danmaku: list[dict[str, Any]]
    next: str | None  # what to ask with as `after`; None: this was the last


@dataclass(frozen=True)
class Rebuilding:
    """How far a collection is rebuilt; `lost`, at the end, are items that the present model cannot embed."""

    done: int
    total: int
    is_finished: bool
    lost: int


def error_of(status: int, headers: Mapping[str, str], content: bytes) -> GatewayError:
    """What an answer other than 200 says."""
    try:
        body = orjson.loads(content)
        message, error_type = str(body["error"]), str(body["error_type"])
    except (ValueError, KeyError, TypeError):  # a proxy's page, say
        message, error_type = content[:200].decode(errors="replace"), "bad_answer"
    try:
        retry_after_s = max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):  # a date is allowed, too; no gateway sends one
        retry_after_s = None
    return GatewayError(
        f"{status} {error_type}: {message}",
        error_type,
        status=status,
        request_id=headers.get("X-Request-ID"),
        retry_after_s=retry_after_s,
    )


def read_info(answer: Any) -> Info:
    return _known(Info, answer)


def read_collection(answer: Any) -> Collection:
    return _known(Collection, answer)


def read_collections(answer: Any) -> list[Collection]:
    return [read_collection(each) for each in answer["collections"]]


def read_added(answer: Any) -> Added:
    reasons = [_text_error(error) for error in answer["reasons"]]
    return Added(answer["added"], answer["replaced"], answer["refused"], reasons)


def read_page(answer: Any) -> Page:
    return _known(Page, answer)


def read_deleted(answer: Any) -> int:
    return int(answer["deleted"])


def read_rebuilding(answer: Any) -> Rebuilding:
    if "error" in answer:
        raise GatewayError(answer["error"], answer["error_type"])
    return Rebuilding(answer["done"], answer["total"], answer.get("finished", False), answer.get("lost", 0))


def read_embedded(answer: Any, expected: int) -> Embedded:
    if len(answer["embeddings"]) != expected:
        raise ValueError(f"sent {expected} texts, got {len(answer['embeddings'])} vectors back")
    nothing = np.full(answer["dim"], np.nan, "<f4").tobytes()
    rows = [nothing if row is None else b64decode(row) for row in answer["embeddings"]]
    vectors = np.frombuffer(b"".join(rows), "<f4").reshape(expected, answer["dim"])
    errors = [_text_error(error) for error in answer["errors"]]
    return Embedded(vectors, answer["model"], answer["fingerprint"], answer["truncated"], errors)


def read_similar(answer: Any) -> Similar:
    matches = [
        [
            Match(match["id"], match["text"], match["score"], match["metadata"], match.get("count", 1))
            for match in result["matches"]
        ]
        for result in answer["results"]
    ]
    errors = {
        side: [_text_error(error) for error in answer["errors"] if error["field"] == side]
        for side in ("query", "candidates")
    }
    return Similar(answer["model"], answer["fingerprint"], matches, errors["query"], errors["candidates"])


def _text_error(error: Any) -> TextError:
    return TextError(error["index"], error["error"], error["error_type"])


def _known(kind: type[T], answer: Any) -> T:
    """Of a dataclass that is an answer as it comes; later gateways may say more."""
    return kind(**{each.name: answer[each.name] for each in fields(kind)})  # type: ignore[arg-type]  # JSON, of the fields that the route tells
