"""Defines the responses of a gateway as dataclasses, and the functions that parse them, without sockets."""

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
    """The reason why the text at `index` of a list has no vector."""

    index: int
    error: str
    error_type: str  # "empty_text", "unspellable" or "text_too_long"


class GatewayError(Exception):
    """A refusal of the gateway, or a failure to get its response.

    `str(error)` is a message for people, and programs branch on `error_type`: one of the gateway's, or
    "unreachable", "out_of_time" if the deadline passed here, or "bad_answer" if the response is not a gateway's.
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
        self.status = status  # None without a response
        self.request_id = request_id  # names the request in the gateway's log
        self.retry_after_s = retry_after_s

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.status in (429, 503) or self.error_type == "unreachable"


@dataclass(frozen=True)
class GatewayInfo:
    """The model that a gateway has loaded, and the limits of its requests."""

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
class EmbedResponse:
    """The vectors of a list of texts."""

    vectors: np.ndarray  # [n, dim] float32; a row of NaN where there is an error
    model: str
    fingerprint: str  # vectors of equal fingerprints are comparable
    truncated: list[int]  # indices of texts that were truncated
    errors: list[TextError]  # in order of index


@dataclass(frozen=True)
class SimilarMatch:
    """A danmaku similar to a query."""

    id: str
    text: str
    score: float  # cosine, −1 to 1
    metadata: dict[str, Any]
    count: int = 1  # in a collection: how often it was added
    relation: str | None = None  # to the query: same, related or unrelated


@dataclass(frozen=True)
class SimilarResponse:
    """The matches of each query."""

    model: str
    fingerprint: str
    matches: list[list[SimilarMatch]]  # per query, best first
    query_errors: list[TextError]
    candidate_errors: list[TextError]


@dataclass(frozen=True)
class CollectionItem:
    """A danmaku to add to a collection, if it needs more than its text."""

    text: str
    id: str | None = None  # by default a hash of the text
    metadata: dict[str, Any] = field(default_factory=dict)
    ttl_s: float | None = None  # seconds until it expires; None: never


@dataclass(frozen=True)
class CollectionDescription:
    """A collection's name, size and model."""

    name: str
    count: int  # of items; may include some that expired a moment ago
    dim: int
    fingerprint: str
    bytes: int
    created_at: float  # Unix time, seconds


@dataclass(frozen=True)
class AddResponse:
    """The numbers of items added, replaced and refused."""

    added: int
    replaced: int
    refused: int
    reasons: list[TextError]  # of the first hundred refused items


@dataclass(frozen=True)
class Label:
    """The label that a head gives a danmaku, with the probabilities of all its labels."""

    label: str  # the most probable one
    scores: dict[str, float]  # the probability of each


@dataclass(frozen=True)
class ObservedLine:
    """A line of a chat: the nearest earlier danmaku, its topic, and its labels by head name."""

    text: str
    nearest: SimilarMatch | None  # in the collection before
    topic_id: int
    topic_count: int  # lines of the topic within the window, including this one
    labels: dict[str, Label]


@dataclass(frozen=True)
class ObserveResponse:
    """The response to `observe`: an entry for each line, in order; None for a line in `errors`."""

    model: str
    fingerprint: str
    lines: list[ObservedLine | None]
    errors: list[TextError]


@dataclass(frozen=True)
class Topic:
    """A subject that lines within the window share."""

    id: int  # stays while the topic lasts
    text: str  # its most frequent text
    count: int  # of lines
    rise: float  # how many times as frequent as before it is now
    first: float  # when it began, seconds
    curve: list[int]  # counts in the parts of the window; the last is now
    said: list[tuple[str, int]]  # with counts, the commonest first; texts that mean the same are merged


@dataclass(frozen=True)
class TopicsResponse:
    """The response to `topics`: the topics of the lines within the window."""

    window_s: float
    now: float | None  # time of the last line; None if there was none
    lines: int  # within the window
    topics: list[Topic]  # the largest first


@dataclass(frozen=True)
class CollectionPage:
    """Danmaku of a collection, each with id, text, metadata, count and expires_at."""

    danmaku: list[dict[str, Any]]
    next: str | None  # the `after` of the next page; None on the last page


@dataclass(frozen=True)
class RebuildProgress:
    """The progress of a rebuild; `lost`, at the end, counts items that the present model cannot embed."""

    done: int
    total: int
    is_finished: bool
    lost: int


def read_error(status: int, headers: Mapping[str, str], content: bytes) -> GatewayError:
    """Makes the error of a response whose status is not 200."""
    try:
        body = orjson.loads(content)
        message, error_type = str(body["error"]), str(body["error_type"])
    except (ValueError, KeyError, TypeError):  # such as a proxy's error page
        message, error_type = content[:200].decode(errors="replace"), "bad_answer"
    try:
        retry_after_s = max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):  # HTTP allows a date too, but no gateway sends one
        retry_after_s = None
    return GatewayError(
        f"{status} {error_type}: {message}",
        error_type,
        status=status,
        request_id=headers.get("X-Request-ID"),
        retry_after_s=retry_after_s,
    )


def read_info(body: Any) -> GatewayInfo:
    return _from_fields(GatewayInfo, body)


def read_collection(body: Any) -> CollectionDescription:
    return _from_fields(CollectionDescription, body)


def read_collections(body: Any) -> list[CollectionDescription]:
    return [read_collection(collection) for collection in body["collections"]]


def read_add_response(body: Any) -> AddResponse:
    reasons = [_read_text_error(error) for error in body["reasons"]]
    return AddResponse(body["added"], body["replaced"], body["refused"], reasons)


def read_page(body: Any) -> CollectionPage:
    return _from_fields(CollectionPage, body)


def read_deleted(body: Any) -> int:
    return int(body["deleted"])


def read_rebuild_progress(body: Any) -> RebuildProgress:
    if "error" in body:
        raise GatewayError(body["error"], body["error_type"])
    return RebuildProgress(body["done"], body["total"], body.get("finished", False), body.get("lost", 0))


def read_embed_response(body: Any, expected: int) -> EmbedResponse:
    if len(body["embeddings"]) != expected:
        raise ValueError(f"sent {expected} texts, got {len(body['embeddings'])} vectors back")
    no_vector = np.full(body["dim"], np.nan, "<f4").tobytes()
    rows = [no_vector if row is None else b64decode(row) for row in body["embeddings"]]
    vectors = np.frombuffer(b"".join(rows), "<f4").reshape(expected, body["dim"])
    errors = [_read_text_error(error) for error in body["errors"]]
    return EmbedResponse(vectors, body["model"], body["fingerprint"], body["truncated"], errors)


def read_similar_response(body: Any) -> SimilarResponse:
    matches = [[_read_match(match) for match in result["matches"]] for result in body["results"]]
    errors = {
        side: [_read_text_error(error) for error in body["errors"] if error["field"] == side]
        for side in ("query", "candidates")
    }
    return SimilarResponse(body["model"], body["fingerprint"], matches, errors["query"], errors["candidates"])


def read_observe_response(body: Any) -> ObserveResponse:
    lines = [
        result
        and ObservedLine(
            result["text"],
            result["nearest"] and _read_match(result["nearest"]),
            result["topic"]["id"],
            result["topic"]["count"],
            {head: _from_fields(Label, label) for head, label in result.get("labels", {}).items()},
        )
        for result in body["results"]
    ]
    errors = [_read_text_error(error) for error in body["errors"]]
    return ObserveResponse(body["model"], body["fingerprint"], lines, errors)


def read_topics_response(body: Any) -> TopicsResponse:
    topics = [
        _from_fields(Topic, topic | {"said": [(each["text"], each["count"]) for each in topic["said"]]})
        for topic in body["topics"]
    ]
    return TopicsResponse(body["window_s"], body["now"], body["lines"], topics)


def _read_match(match: Any) -> SimilarMatch:
    return SimilarMatch(
        match["id"],
        match["text"],
        match["score"],
        match.get("metadata", {}),
        match.get("count", 1),
        match.get("relation"),
    )


def _read_text_error(error: Any) -> TextError:
    return TextError(error["index"], error["error"], error["error_type"])


def _from_fields(kind: type[T], body: Any) -> T:
    """Builds the dataclass `kind` from the fields it declares; ignores those that newer gateways add."""
    return kind(**{declared.name: body[declared.name] for declared in fields(kind)})  # type: ignore[arg-type]  # any dataclass
