"""Everything that can go wrong, and who has to act.

DanmakuError
├── MalformedRequest      400  the caller: the body is not JSON
│   └── DamagedBody       400  the caller: the body is not the gzip that it says
├── Unauthorized          401  the caller: send an API key
├── NotFound              404  the caller: no such route, model, collection or danmaku
│   └── NoVocabulary      404  nobody: the encoder does not tell what it makes of a text
├── BodyTimeout           408  the caller: send the body faster, or in parts
├── Conflict              409  the caller: what is there does not go with what is asked
│   ├── CollectionExists  409  of that name, but with vectors of another kind
│   └── FingerprintMismatch 409  the collection's vectors are another model's: rebuild it
├── TooLarge              413  the caller: fewer texts, or a smaller body
├── UnknownEncoding       415  the caller: a body packed in a way that is not known here
├── InvalidRequest        422  the caller: JSON, but not what the route takes
│   └── NoVector          422  the caller: a text without a vector, where an answer has no place to say so
├── Overloaded            429  the caller: come back after Retry-After; the operator: add capacity
├── ClientGone            499  nobody: the caller hung up, so nobody reads the answer
├── InternalError         500  us
├── EncoderUnavailable    503  the operator: the encoder is closing or cannot be reached
│   ├── EncoderFailure    503  the operator: the encoder was asked and broke
│   ├── ModelGone         503  nobody: another model has taken over; the embedder asks that one
│   └── ModelChanged      503  the caller: another model has taken over in the middle of a stream; send it again
├── StoreUnavailable      503  the operator: collections are closing or cannot be reached
├── OutOfTime             504  the caller: more time, or fewer texts; the operator: add capacity
├── Stalled               504  the caller: a stream is to be read while it is sent
├── StorageFull           507  the operator: no room for what was to be kept; nothing of it is
└── ConfigurationError     –   the operator, at start: a setting names what does not exist or cannot be used
    └── ModelError         –   the model directory cannot be used; also a ValueError

A text that cannot be embedded is not in this tree: it is a `TextError` beside the others' vectors, since one bad text
never sinks a list. Nor is a cache that fails: that is a miss and a metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class DanmakuError(Exception):
    """`str(error)` is a sentence for a person; `error_type` is what a client branches on."""

    status = 500
    error_type = "internal"
    retry_after_s: int | None = None
    headers: Mapping[str, str] = MappingProxyType({})  # of the answer


class MalformedRequest(DanmakuError):
    status, error_type = 400, "malformed_json"


class DamagedBody(MalformedRequest):
    error_type = "damaged_gzip"


class Unauthorized(DanmakuError):
    status, error_type = 401, "unauthorized"
    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class NotFound(DanmakuError):
    status, error_type = 404, "not_found"


class NoVocabulary(NotFound):
    error_type = "no_vocabulary"


class BodyTimeout(DanmakuError):
    status, error_type = 408, "body_timeout"
    headers = MappingProxyType({"Connection": "close"})  # nobody waits for the rest of the body


class Conflict(DanmakuError):
    status, error_type = 409, "conflict"


class CollectionExists(Conflict):
    error_type = "collection_exists"


class FingerprintMismatch(Conflict):
    error_type = "fingerprint_mismatch"


class TooLarge(DanmakuError):
    status, error_type = 413, "too_large"


class UnknownEncoding(DanmakuError):
    status, error_type = 415, "unknown_encoding"


class InvalidRequest(DanmakuError):
    status, error_type = 422, "invalid_request"


class NoVector(InvalidRequest):
    """Of a text's error, where a list is answered whole or not at all."""

    def __init__(self, error: TextError, field: str) -> None:
        super().__init__(f"{field}.{error.index}: {error.error}")
        self.error_type = error.error_type


class ClientGone(DanmakuError):
    status, error_type = 499, "client_gone"


class Overloaded(DanmakuError):
    status, error_type = 429, "overloaded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InternalError(DanmakuError):
    status, error_type = 500, "internal"


class EncoderUnavailable(DanmakuError):
    status, error_type = 503, "encoder_unavailable"
    retry_after_s = 1


class EncoderFailure(EncoderUnavailable):
    error_type = "encoder_failure"


class ModelGone(EncoderUnavailable):
    """The model that texts were prepared for encodes no more."""


class ModelChanged(EncoderUnavailable):
    error_type = "model_changed"


class OutOfTime(DanmakuError):
    status, error_type = 504, "out_of_time"


class Stalled(DanmakuError):
    status, error_type = 504, "stalled"


class StoreUnavailable(DanmakuError):
    status, error_type = 503, "store_unavailable"
    retry_after_s = 1


class StorageFull(DanmakuError):
    status, error_type = 507, "insufficient_storage"


class ConfigurationError(DanmakuError):
    error_type = "configuration"


class ModelError(ConfigurationError, ValueError):
    """The message names the file, what was found in it and what was expected."""


@dataclass(frozen=True, slots=True)
class TextError:
    """Why the text at `index` of a list has no vector."""

    index: int
    error: str
    error_type: str  # "empty_text", "unspellable" or "text_too_long"
