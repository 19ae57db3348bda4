"""The bodies of requests and answers: what is accepted, and what the OpenAPI page shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, cast

from fastapi import Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.api.http.body import read_body
from service.errors import DanmakuError, InvalidRequest, MalformedRequest
from service.shape import LONG_BYTES, parse_json
from service.tasks import run_in_thread_if

TEXT_LIST = {"type": "array", "items": {"type": "string"}}
DIMENSIONS = "Cuts every vector to this length before scaling; only lengths that the model was trained for."
MAX_ERRORS = 100  # in one body; making more of them would take seconds
MAX_EXPLANATION = 200  # characters of the caller's input that an error repeats


class FirstError(FailFast):
    """Refuses a list at its first wrong value; unlike pydantic's class, it can stand in `Texts | None`."""

    __hash__ = object.__hash__


Texts = Annotated[list[str], FirstError()]
Numbers = Annotated[list[float], FirstError()]


class Body(BaseModel):
    """A request's JSON body, whatever Content-Type says, because `curl -d` says that it is a form."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    async def read(cls, request: Request) -> Self:
        """Reads and parses the body.

        Raises MalformedRequest for invalid JSON, InvalidRequest for JSON of another shape, TooLarge for too many
        values, and what `read_body` raises.
        """
        body = await read_body(request)
        return await run_in_thread_if(len(body) > LONG_BYTES, lambda: cls.parse(body))

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Returns what `read` returns, of a body that has been read."""
        return cls.from_json(parse_json(body, "the body"))

    @classmethod
    def from_json(cls, content: object) -> Self:
        """Returns the same, of JSON that has been parsed."""
        if isinstance(content, dict) and len(content) > MAX_ERRORS:
            raise InvalidRequest(f"invalid body: {len(content)} fields; GET /docs lists the expected fields")
        try:
            return cls.model_validate(content)  # in half the time of `model_validate_json`
        except ValidationError as error:
            raise explain_error(error, "the body") from None

    @classmethod
    def openapi(cls, others: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> dict[str, Any]:
        """Returns the request body for the OpenAPI document; `others`: schemas of alternatives, by Content-Type."""
        schemas = {"application/json": _inline(cls.model_json_schema()), **others}
        content = {kind: {"schema": schema} for kind, schema in schemas.items()}
        return {"requestBody": {"required": True, "content": content}}


def _inline(schema: dict[str, Any]) -> dict[str, Any]:
    """Replaces references to the schema's own `$defs`, which lead nowhere from within the OpenAPI document."""
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolve(definitions[part["$ref"].removeprefix("#/$defs/")])
        return {name: resolve(value) for name, value in part.items()}

    return cast(dict[str, Any], resolve(schema))


def describe_path(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def describe_query(options: type[BaseModel]) -> list[dict[str, Any]]:
    fields = options.model_json_schema()["properties"].items()
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields]


def explain_error(error: ValidationError, whole: str) -> DanmakuError:
    """Returns the error to answer: what is invalid in `whole`, and where."""
    name = whole.removeprefix("the ")
    if error.error_count() > MAX_ERRORS:
        return InvalidRequest(f"invalid {name}: {error.error_count()} errors; GET /docs shows what is expected")
    fault = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        return MalformedRequest(f"invalid JSON in {whole}: {fault['ctx']['error']}")
    place = ".".join(map(str, fault["loc"])) or name
    # Pydantic's own message names a class of this program.
    message = "Input should be an object" if fault["type"] == "model_type" else fault["msg"]
    return InvalidRequest(f"invalid {_shorten(place)}: {_shorten(message)}", param=_shorten(place))


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_EXPLANATION else f"{text[:MAX_EXPLANATION]}…"


def _or_list(schema: dict[str, Any]) -> None:
    described = dict(schema)
    schema.clear()
    schema["anyOf"] = [described, TEXT_LIST]


class EmbedRequest(Body):
    """An object, or a bare list of texts."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_or_list)

    texts: Texts = Field(examples=[["草", "awsl"]])
    normalize: bool = Field(False, description="Scale every vector to length 1.")
    encoding: Literal["float", "base64"] = Field(
        "float", description="base64 encodes each vector as little-endian float32, in less than half the size."
    )
    dimensions: int | None = Field(None, examples=[64], description=DIMENSIONS)

    @model_validator(mode="before")
    @classmethod
    def _bare_list(cls, body: Any) -> Any:
        return {"texts": body} if isinstance(body, list) else body


class StreamOptions(BaseModel):
    """The options of a stream, in the URL's query; other bodies have fields for them."""

    model_config = ConfigDict(extra="forbid")

    normalize: bool = False
    encoding: Literal["float", "base64"] = "float"


def _check_scalar(value: Any) -> Any:
    if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
        raise PydanticCustomError("scalar", "Input should be a string, a finite number, true, false or null")
    return value


class StreamLine(BaseModel):
    """A line of a stream: an object, or just a text."""

    model_config = ConfigDict(extra="forbid")

    text: str
    id: Annotated[Any, AfterValidator(_check_scalar)] = None

    @model_validator(mode="before")
    @classmethod
    def _bare_text(cls, line: Any) -> Any:
        return {"text": line} if isinstance(line, str) else line


class TextErrorBody(BaseModel):
    index: int = Field(description="Index of the text.")
    error: str
    error_type: Literal["empty_text", "unspellable", "text_too_long"]


class EmbedResponse(BaseModel):
    model: str
    fingerprint: str = Field(description="Vectors are comparable if their fingerprints are equal.")
    dim: int
    embeddings: list[list[float] | str | None] = Field(
        description="One per text, in order; null for texts in `errors`."
    )
    truncated: list[int] = Field(description="Indices of texts that exceed the model's limit and were truncated.")
    errors: list[TextErrorBody]


Queries = Annotated[
    list[str],
    FirstError(),
    BeforeValidator(lambda query: [query] if isinstance(query, str) else query),
    WithJsonSchema({"anyOf": [{"type": "string"}, TEXT_LIST]}),
]


MAX_MATCHES = 1000  # for one query in a collection


class SimilarRequest(Body):
    """Ranks `candidates`, or searches a `collection`."""

    query: Queries | None = Field(None, examples=["阿夸"], description="A text, or a list of texts.")
    candidates: Texts | None = Field(None, examples=[["aqua", "晚安"]])
    collection: str | None = Field(None, description="Name of a collection to search by `query`, `id` or `vector`.")
    id: str | None = Field(
        None, description="Finds the danmaku most similar to this item of the collection, without the item itself."
    )
    vector: Numbers | None = Field(None, min_length=1, description="A vector of the same fingerprint.")
    top_k: int | None = Field(
        None,
        ge=1,
        description="Maximum number of matches. By default all candidates, or 10 from a collection, which returns at "
        f"most {MAX_MATCHES}.",
    )
    min_score: float | None = Field(None, ge=-1, le=1, description="Return only matches with at least this score.")
    dimensions: int | None = Field(
        None, description="Compares only the first numbers of the vectors of `candidates`, as `POST /embed` cuts them."
    )
    filter: dict[str, Any] | None = Field(
        None, examples=[{"room": 3}], description="Return only items whose metadata match."
    )
    with_vectors: bool = Field(False, description="Whether matches from a collection include their vectors.")
    heads: Texts | None = Field(None, min_length=1, description="Names of heads; matches then include their labels.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.candidates is None) == (self.collection is None):
            raise PydanticCustomError("one_of", "expected either `candidates` or `collection`")
        if self.collection is None:
            # Not which fields were sent: generated clients send defaults and nulls.
            given = (self.id, self.vector, self.filter, self.with_vectors or None)
            if self.query is None or any(each is not None for each in given):
                raise PydanticCustomError(
                    "candidates",
                    "`candidates` requires `query`; id, vector, filter and with_vectors require `collection`",
                )
        elif sum(given is not None for given in (self.query, self.id, self.vector)) != 1:
            raise PydanticCustomError("one_of", "expected exactly one of `query`, `id` and `vector` for a collection")
        elif (self.top_k or 0) > MAX_MATCHES:
            raise PydanticCustomError("top_k", f"expected top_k of at most {MAX_MATCHES} for a collection")
        elif self.dimensions is not None:
            raise PydanticCustomError(
                "dimensions", "`dimensions` requires `candidates`: collections store full-length vectors"
            )
        return self


class LabelBody(BaseModel):
    label: str = Field(description="The most probable label.")
    scores: dict[str, float] = Field(description="The probability of each label; they add up to 1.")


class MatchBody(BaseModel):
    id: str = Field(description="The candidate's index in the list, or the item's id.")
    text: str
    score: float = Field(description="Cosine similarity, −1 to 1.")
    relation: Literal["same", "related", "unrelated"] | None = Field(
        description="Relation to the query, judged by meaning, spelling, sound and polarity: opposites are "
        "related. Null after a search by vector, and beyond the first 10,000 matches of a response."
    )
    metadata: dict[str, object]
    count: int = Field(1, description="In a collection: number of times that it was added.")
    vector: list[float] | None = Field(None, description="Present with `with_vectors`.")
    labels: dict[str, LabelBody] | None = Field(None, description="Present with `heads`: labels by name of the head.")


class SimilarResult(BaseModel):
    query: str | None = Field(None, description="Absent after a search by id or vector.")
    matches: list[MatchBody] = Field(description="The best match first.")


class SimilarError(TextErrorBody):
    field: Literal["query", "candidates"]


class SimilarResponse(BaseModel):
    model: str
    fingerprint: str
    results: list[SimilarResult] = Field(description="One per query, in order.")
    errors: list[SimilarError]


def _refuse_tokens(value: Any) -> Any:
    numbers = value if isinstance(value, list) else []
    if any(isinstance(item, int | list) for item in numbers):
        raise PydanticCustomError(
            "tokens",
            "expected texts, not lists of token ids, which belong to another vocabulary; with LangChain, pass "
            "check_embedding_ctx_length=False to OpenAIEmbeddings",
        )
    return [value] if isinstance(value, str) else value


InputTexts = Annotated[
    list[str],
    FirstError(),
    Field(min_length=1),
    BeforeValidator(_refuse_tokens),
    WithJsonSchema({"anyOf": [{"type": "string"}, {**TEXT_LIST, "minItems": 1}]}),
]


class OpenAIRequest(Body):
    model_config = ConfigDict(extra="ignore")

    input: InputTexts = Field(examples=[["草", "awsl"]], description="A text, or a list of texts.")
    model: str | None = Field(None, description="The name that `GET /v1/models` returns; optional.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, examples=[64], description=DIMENSIONS)
    user: str | None = Field(None, description="Ignored, like all fields that are not listed here.")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: Any) -> Any:
        # Some clients send null for every option that was not set.
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class OpenAIEmbedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    prompt_tokens: int = Field(description="Tokens that the model read, without [CLS], [SEP] and the truncated part.")
    total_tokens: int


class OpenAIResponse(BaseModel):
    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class OpenAIModel(BaseModel):
    id: str
    object: Literal["model"]
    created: int = Field(description="Always 0, because a model directory has no date.")
    owned_by: str


class OpenAIErrorContent(BaseModel):
    message: str = Field(description="A sentence for people.")
    type: str = Field(description="Who has to act, in OpenAI's words.")
    param: str | None = Field(description="The invalid field of the request.")
    code: str = Field(description="The `error_type` of other routes.")


class OpenAIError(BaseModel):
    error: OpenAIErrorContent
    message: str = Field(description="The same sentence, where text-embeddings-inference's clients look for it.")


class OpenAIModels(BaseModel):
    object: Literal["list"]
    data: list[OpenAIModel]


class EncodeRequest(Body):
    """A request in bert-serving-server's format, which `service/wire_http.py` reads."""

    model_config = ConfigDict(extra="allow")

    id: Any = Field(examples=[123], description="Returned in the response.")
    texts: Texts = Field(examples=[["草", "awsl"]], min_length=1)
    is_tokenized: Literal[False] = Field(False, description="Only workers accept lists of tokens.")


class EncodeResponse(BaseModel):
    id: Any
    result: list[list[float]]
    status: Literal[200]


class EncodeFailure(BaseModel):
    description: str
    type: str
    status: int


class TokenizeRequest(Body):
    texts: Texts = Field(examples=[["阿夸awsl😂"]])


class UnknownWord(BaseModel):
    text: str
    start: int = Field(description="Index of its first character in the text that was sent.")
    end: int = Field(description="Index after its last character.")


class TokenizedText(BaseModel):
    tokens: list[str] = Field(description="The tokens that the model reads, including [CLS] and [SEP].")
    ids: list[int]
    num_tokens: int
    unknown: list[UnknownWord] = Field(description="Words that became [UNK] because the vocabulary cannot spell them.")
    truncated: str = Field(
        description="The end of the text that the model does not read; empty if it reads everything."
    )


class TokenizeResponse(BaseModel):
    model: str
    fingerprint: str
    max_seq_len: int
    results: list[TokenizedText] = Field(description="One per text, in order.")


class ErrorBody(BaseModel):
    error: str = Field(description="A sentence for people.")
    error_type: str = Field(description="A code for programs.")
