"""OpenAI's API for its clients: POST /v1/embeddings, GET /v1/models.

The vectors are those of /embed, as the model makes them: not of length 1, unlike OpenAI's. OpenAI's format has no place
for a text without a vector, so one such text is a 422 for the whole list. Errors have our format: OpenAI's client
raises by status and keeps the content in `body`, but its exception's text shows only errors in OpenAI's own format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from service.api.caller import Caller
from service.api.responses import ERRORS, PlainRoute, json_response
from service.api.schemas import ErrorBody, OpenAIModels, OpenAIRequest, OpenAIResponse
from service.api.state import get_state
from service.api.vectors import format_vectors
from service.encoders.model import Model
from service.errors import InvalidRequest, NotFound, NoVector

router = APIRouter(tags=["OpenAI's shape"], route_class=PlainRoute)


@router.post(
    "/v1/embeddings",
    openapi_extra=OpenAIRequest.openapi(),
    responses={
        **ERRORS,
        404: {"model": ErrorBody, "description": "Another model is served; `GET /v1/models` names it."},
        200: {"model": OpenAIResponse},
    },
)
async def embeddings(request: Request) -> Response:
    """Returns the vectors of `POST /embed`, so not of length 1. Accepts texts only, no lists of tokens."""
    caller, state = Caller(request), get_state(request)
    body = await OpenAIRequest.read(request)
    state.accept_texts(len(body.input))
    _check(body, state.embedder.model)
    result = await caller.wait(state.embedder.embed(body.input))
    if result.errors:
        raise NoVector(result.errors[0], "input")
    tokens = await asyncio.to_thread(_count_tokens, result.model, body.input)
    vectors = format_vectors(result, in_base64=body.encoding_format == "base64", dimensions=body.dimensions)
    return json_response(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)
            ],
            "model": result.model.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


@router.get("/v1/models", responses={200: {"model": OpenAIModels}, 401: ERRORS[401], 503: ERRORS[503]})
async def models(request: Request) -> Response:
    """Lists the one model that is served."""
    name = get_state(request).embedder.model.name
    model = {"id": name, "object": "model", "created": 0, "owned_by": "danmaku"}
    return json_response({"object": "list", "data": [model]})


def _check(body: OpenAIRequest, model: Model) -> None:
    if body.model != model.name:
        raise NotFound(f"invalid model {body.model!r}: expected {model.name!r}, the one that is served")
    if body.dimensions and body.dimensions > model.dim:
        raise InvalidRequest(
            f"invalid dimensions {body.dimensions}: expected at most the {model.dim} of {model.name!r}"
        )


def _count_tokens(model: Model, texts: Sequence[str]) -> int:
    """Returns how many tokens the model reads, without [CLS] and [SEP]."""
    prepared = model.prepare([model.normalize(text) for text in texts])
    return sum(text.num_tokens - 2 for text in prepared)
