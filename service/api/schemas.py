"""The bodies of requests and answers: what is accepted, and what the OpenAPI page shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import orjson
from fastapi import Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from service.errors import ClientGone, DanmakuError, InvalidRequest, MalformedRequest

TEXT_LIST = {"type": "array", "items": {"type": "string"}}


class Body(BaseModel):
    """A request's body. Parsed whatever Content-Type says, since `curl -d` says it is a form."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    async def of(cls, request: Request) -> Self:
        """Raises MalformedRequest for what is not JSON, InvalidRequest for other JSON than this.

        Raises ClientGone if the body breaks off.
        """
        try:
            body = await request.body()  # which some routes have read by now
        except ClientDisconnect:
            raise ClientGone("the caller hung up in the middle of the body") from None
        try:
            return cls.model_validate(orjson.loads(body))  # in half the time of `model_validate_json`
        except orjson.JSONDecodeError as error:
            raise MalformedRequest(f"the body is not JSON: {error}") from None
        except ValidationError as error:
            raise explain(error, "the body") from None

    @classmethod
    def openapi(cls, others: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> dict[str, Any]:
        """`others`: schemas of what may come instead, by Content-Type."""
        schemas = {"application/json": cls.model_json_schema(), **others}
        content = {kind: {"schema": schema} for kind, schema in schemas.items()}
        return {"requestBody": {"required": True, "content": content}}


def explain(error: ValidationError, whole: str) -> DanmakuError:
    """What is wrong with `whole`, or where in it."""
    fault = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        return MalformedRequest(f"{whole} is not JSON: {fault['ctx']['error']}")
    place = ".".join(map(str, fault["loc"])) or whole
    return InvalidRequest(f"{place}: {fault['msg']}")


def _or_list(schema: dict[str, Any]) -> None:
    described = dict(schema)
    schema.clear()
    schema["anyOf"] = [described, TEXT_LIST]


class EmbedRequest(Body):
    """An object, or a bare list of texts."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_or_list)

    texts: list[str] = Field(examples=[["草", "awsl"]])
    normalize: bool = Field(False, description="Scale every vector to length 1.")
    encoding: Literal["float", "base64"] = Field(
        "float", description="base64: each vector as little-endian float32, less than half the size."
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_list(cls, body: Any) -> Any:
        return {"texts": body} if isinstance(body, list) else body


class StreamOptions(BaseModel):
    """What an object's fields say, as parameters of the URL, since a stream has no such object."""

    model_config = ConfigDict(extra="forbid")

    normalize: bool = False
    encoding: Literal["float", "base64"] = "float"


def _scalar(value: Any) -> Any:
    if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
        raise PydanticCustomError("scalar", "Input should be a string, a finite number, true, false or null")
    return value


class StreamLine(BaseModel):
    """A line of a stream: an object, or just a text."""

    model_config = ConfigDict(extra="forbid")

    text: str
    id: Annotated[Any, AfterValidator(_scalar)] = None

    @model_validator(mode="before")
    @classmethod
    def _bare_text(cls, line: Any) -> Any:
        return {"text": line} if isinstance(line, str) else line


class TextErrorBody(BaseModel):
    index: int = Field(description="Which of the texts.")
    error: str
    error_type: Literal["empty_text", "unspellable", "text_too_long"]


class EmbedResponse(BaseModel):
    model: str
    fingerprint: str = Field(description="Vectors are comparable if their fingerprints are equal.")
    dim: int
    embeddings: list[list[float] | str | None] = Field(
        description="One per text, in order; null where `errors` says why."
    )
    truncated: list[int] = Field(description="Which texts were longer than the model takes, and lost their end.")
    errors: list[TextErrorBody]


Queries = Annotated[
    list[str],
    BeforeValidator(lambda query: [query] if isinstance(query, str) else query),
    WithJsonSchema({"anyOf": [{"type": "string"}, TEXT_LIST]}),
]


MOST_MATCHES = 1000  # of one query in a collection


class SimilarRequest(Body):
    """Ranks `candidates`, or searches a `collection`."""

    query: Queries | None = Field(None, examples=["阿夸"], description="A text, or a list of them.")
    candidates: list[str] | None = Field(None, examples=[["aqua", "晚安"]])
    collection: str | None = Field(None, description="Its name; searched by `query`, `id` or `vector`.")
    id: str | None = Field(None, description="What is most like this item of the collection, itself left out.")
    vector: list[float] | None = Field(None, min_length=1, description="A vector of the same fingerprint.")
    top_k: int | None = Field(
        None,
        ge=1,
        description=f"At most so many matches. By default all candidates, or 10 of a collection, which gives at most "
        f"{MOST_MATCHES}.",
    )
    min_score: float | None = Field(None, ge=-1, le=1, description="Only matches at least this like the query.")
    filter: dict[str, Any] | None = Field(
        None, examples=[{"room": 3}], description="Only items of a collection whose metadata are so."
    )
    with_vectors: bool = Field(False, description="Whether matches of a collection come with their vectors.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.candidates is None) == (self.collection is None):
            raise PydanticCustomError("one_of", "expected `candidates` or `collection`, one of the two")
        if self.collection is None:
            if self.query is None or not {"id", "vector", "filter", "with_vectors"}.isdisjoint(self.model_fields_set):
                raise PydanticCustomError(
                    "candidates", "`candidates` go with `query`; id, vector, filter and with_vectors with `collection`"
                )
        elif sum(given is not None for given in (self.query, self.id, self.vector)) != 1:
            raise PydanticCustomError("one_of", "a collection is searched by `query`, `id` or `vector`, one of them")
        elif (self.top_k or 0) > MOST_MATCHES:
            raise PydanticCustomError("top_k", f"top_k: a collection gives at most {MOST_MATCHES} matches")
        return self


class Match(BaseModel):
    id: str = Field(description="The candidate's place in the list, from 0; or the item's own.")
    text: str
    score: float = Field(description="Cosine similarity, −1 to 1.")
    metadata: dict[str, object]
    count: int = Field(1, description="Of a collection: how often it was added.")
    vector: list[float] | None = Field(None, description="If asked for.")


class SimilarResult(BaseModel):
    query: str | None = Field(None, description="Absent after a search by id or vector.")
    matches: list[Match] = Field(description="Best first.")


class SimilarError(TextErrorBody):
    field: Literal["query", "candidates"]


class SimilarResponse(BaseModel):
    model: str
    fingerprint: str
    results: list[SimilarResult] = Field(description="One per query, in order.")
    errors: list[SimilarError]


def _no_tokens(value: Any) -> Any:
    numbers = value if isinstance(value, list) else []
    if any(isinstance(item, int | list) for item in numbers):
        raise PydanticCustomError(
            "tokens", "lists of tokens are not taken, as they are of another vocabulary; send texts"
        )
    return [value] if isinstance(value, str) else value


class OpenAIRequest(Body):
    input: Annotated[
        list[str],
        Field(min_length=1),
        BeforeValidator(_no_tokens),
        WithJsonSchema({"anyOf": [{"type": "string"}, {**TEXT_LIST, "minItems": 1}]}),
    ] = Field(examples=[["草", "awsl"]], description="A text, or a list of them.")
    model: str = Field(description="The name that `GET /v1/models` gives.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, ge=1, description="So many of the first numbers alone: worth it of a model that was trained for it."
    )
    user: str | None = Field(None, description="Taken, and not used.")


class OpenAIEmbedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    prompt_tokens: int = Field(description="Tokens that the model read; not counted: [CLS], [SEP], what was cut off.")
    total_tokens: int


class OpenAIResponse(BaseModel):
    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class OpenAIModel(BaseModel):
    id: str
    object: Literal["model"]
    created: int = Field(description="Always 0: a model directory does not say.")
    owned_by: str


class OpenAIModels(BaseModel):
    object: Literal["list"]
    data: list[OpenAIModel]


class EncodeRequest(Body):
    """As bert-serving-server's; `service/wire_http.py` reads it."""

    model_config = ConfigDict(extra="allow")

    id: Any = Field(examples=[123], description="Comes back in the answer.")
    texts: list[str] = Field(examples=[["草", "awsl"]], min_length=1)
    is_tokenized: Literal[False] = Field(False, description="Lists of tokens are for workers.")


class EncodeResponse(BaseModel):
    id: Any
    result: list[list[float]]
    status: Literal[200]


class EncodeFailure(BaseModel):
    description: str
    type: str
    status: int


class TokenizeRequest(Body):
    texts: list[str] = Field(examples=[["阿夸awsl😂"]])


class UnknownWord(BaseModel):
    text: str
    start: int = Field(description="Its first character in the text as it was sent, from 0.")
    end: int = Field(description="The character after its last.")


class Tokenized(BaseModel):
    tokens: list[str] = Field(description="What the model reads, [CLS] and [SEP] included.")
    ids: list[int]
    num_tokens: int
    unknown: list[UnknownWord] = Field(description="What of that became [UNK], since the vocabulary cannot spell it.")
    truncated: str = Field(description="The end of the text that the model does not read; empty if it reads all.")


class TokenizeResponse(BaseModel):
    model: str
    fingerprint: str
    max_seq_len: int
    results: list[Tokenized] = Field(description="One per text, in order.")


class ErrorBody(BaseModel):
    error: str = Field(description="A sentence for a person.")
    error_type: str = Field(description="What a client branches on.")
