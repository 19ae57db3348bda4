"""The bodies of requests and answers: what is accepted, and what the OpenAPI page shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
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
            return cls.model_validate_json(await request.body())
        except ValidationError as error:
            raise _explain(error) from None
        except ClientDisconnect:
            raise ClientGone("the caller hung up in the middle of the body") from None

    @classmethod
    def openapi(cls) -> dict[str, Any]:
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": cls.model_json_schema()}}}}


def _explain(error: ValidationError) -> DanmakuError:
    fault = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        return MalformedRequest(f"the body is not JSON: {fault['ctx']['error']}")
    place = ".".join(map(str, fault["loc"])) or "the body"
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


class SimilarRequest(Body):
    query: Queries = Field(examples=["阿夸"], description="A text, or a list of them.")
    candidates: list[str] = Field(examples=[["aqua", "晚安"]])
    top_k: int | None = Field(None, ge=1, description="At most so many matches; all of them by default.")
    min_score: float | None = Field(None, ge=-1, le=1, description="Only matches at least this like the query.")


class Match(BaseModel):
    id: str = Field(description="The candidate's place in the list, from 0.")
    text: str
    score: float = Field(description="Cosine similarity, −1 to 1.")
    metadata: dict[str, object]


class SimilarResult(BaseModel):
    query: str
    matches: list[Match] = Field(description="Best first.")


class SimilarError(TextErrorBody):
    field: Literal["query", "candidates"]


class SimilarResponse(BaseModel):
    model: str
    fingerprint: str
    results: list[SimilarResult] = Field(description="One per query, in order.")
    errors: list[SimilarError]


class ErrorBody(BaseModel):
    error: str = Field(description="A sentence for a person.")
    error_type: str = Field(description="What a client branches on.")
