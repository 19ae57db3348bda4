"""Defines every error of the service, and who has to act.

DanmakuError
├── MalformedRequest      400  the caller: the body is not JSON
│   └── DamagedBody       400  the caller: the body is not valid gzip
├── Unauthorized          401  the caller: send a valid API key
├── ForeignOrigin         403  the caller: a page of another site; the operator: name it in cors_origins
├── Forbidden             403  the caller: this key may not do that; the operator: change the file of keys
├── NotFound              404  the caller: no such route, model, collection or danmaku
│   └── NoVocabulary      404  nobody: the encoder does not reveal its vocabulary
├── MethodNotAllowed      405  the caller: the route exists for other methods
├── BodyTimeout           408  the caller: send the body faster, or in parts
├── Conflict              409  the caller: the request contradicts what is stored
│   ├── CollectionExists  409  the caller: a collection of that name holds vectors of another model
│   └── FingerprintMismatch 409  the caller: the collection belongs to another model; rebuild it
├── TooLarge              413  the caller: send fewer texts, or a smaller body
├── UnknownEncoding       415  the caller: use gzip or no Content-Encoding
├── UnknownContentType    415  the caller: declare the body as JSON or NDJSON
├── UnknownHost           421  the caller: use the gateway's address; the operator: name the host in allowed_hosts
├── InvalidRequest        422  the caller: valid JSON, but not what the route expects
│   └── NoVector          422  the caller: a text has no vector, and the answer's format cannot say so per text
├── Overloaded            429  the caller: retry after Retry-After; the operator: add capacity
│   └── RateExceeded      429  the caller: retry after Retry-After, and send less with this key
├── QuotaSpent            429  the caller: this key has used its quota for today
├── ClientGone            499  nobody: the client disconnected, so nobody reads the response
├── InternalError         500  us
├── EncoderUnavailable    503  the operator: the encoder is closing or cannot be reached
│   ├── EncoderFailure    503  the operator: a model call failed
│   ├── ModelGone         503  nobody: another model has taken over; the embedder uses that one
│   └── ModelChanged      503  the caller: the model changed in the middle of a stream; send it again
├── MemoryFull            503  the caller: retry after Retry-After; the operator: add memory and raise max_held_bytes
├── StoreUnavailable      503  the operator: collections are closing or cannot be reached
├── OutOfTime             504  the caller: allow more time, or send fewer texts; the operator: add capacity
├── Stalled               504  the caller: read a stream's answer while sending
├── StorageFull           507  the operator: there is no room, and nothing was stored
└── ConfigurationError     –   the operator, at start: a setting names what does not exist or cannot be used
    ├── ModelError         –   the model directory cannot be used; also a ValueError
    └── HeadError          –   the folder of a head cannot be used; also a ValueError

A text that cannot be embedded is not in this tree: it is a `TextError` beside the vectors of the other texts, because
one bad text never fails a list. A cache that fails is not either: that is a miss and a metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class DanmakuError(Exception):
    """`str(error)` is a sentence for people; clients branch on `error_type`."""

    status = 500
    error_type = "internal"
    retry_after_s: int | None = None
    headers: Mapping[str, str] = MappingProxyType({})  # extra headers of the response
    param: str | None = None  # the field of the request that is at fault, for OpenAI's clients


class MalformedRequest(DanmakuError):
    status, error_type = 400, "malformed_json"


class DamagedBody(MalformedRequest):
    error_type = "damaged_gzip"


class Unauthorized(DanmakuError):
    status, error_type = 401, "unauthorized"
    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class ForeignOrigin(DanmakuError):
    status, error_type = 403, "foreign_origin"


class Forbidden(DanmakuError):
    status, error_type = 403, "forbidden"


class NotFound(DanmakuError):
    status, error_type = 404, "not_found"


class NoVocabulary(NotFound):
    error_type = "no_vocabulary"


class MethodNotAllowed(DanmakuError):
    status, error_type = 405, "method_not_allowed"


class BodyTimeout(DanmakuError):
    status, error_type = 408, "body_timeout"
    headers = MappingProxyType({"Connection": "close"})  # the rest of the body is not read


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


class UnknownContentType(DanmakuError):
    status, error_type = 415, "unknown_content_type"


class UnknownHost(DanmakuError):
    status, error_type = 421, "unknown_host"


class InvalidRequest(DanmakuError):
    status, error_type = 422, "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class NoVector(InvalidRequest):
    """A text has no vector, and the response format cannot report errors per text."""

    def __init__(self, error: TextError, field: str) -> None:
        super().__init__(f"{field}.{error.index}: {error.error}", param=f"{field}.{error.index}")
        self.error_type = error.error_type


class ClientGone(DanmakuError):
    status, error_type = 499, "client_gone"


class Overloaded(DanmakuError):
    status, error_type = 429, "overloaded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateExceeded(Overloaded):
    error_type = "rate_exceeded"


class QuotaSpent(DanmakuError):
    status, error_type = 429, "quota_spent"

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
    """The model that the texts were prepared for is no longer in service."""


class ModelChanged(EncoderUnavailable):
    error_type = "model_changed"


class MemoryFull(DanmakuError):
    status, error_type = 503, "memory_full"
    retry_after_s = 1
    headers = MappingProxyType({"Connection": "close"})  # the rest of the body is not read


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


class HeadError(ConfigurationError, ValueError):
    """The message names the folder, what was found in it and what was expected."""


@dataclass(frozen=True, slots=True)
class TextError:
    """The reason why the text at `index` of a list has no vector."""

    index: int
    error: str
    error_type: str  # "empty_text", "unspellable" or "text_too_long"
