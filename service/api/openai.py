"""OpenAI's shape, for its clients: POST /v1/embeddings, GET /v1/models.

The vectors are those of /embed, as the model makes them: not of length 1, as OpenAI's own are. That shape has no place
for a text without a vector, so one such text is a 422 for the list. Errors have our shape: OpenAI's client raises by
their status and has the sentence as `body`, but not in its exception's text, which shows OpenAI's own shape only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from service.api.responses import ERRORS, PlainRoute, json_response
from service.api.schemas import ErrorBody, OpenAIModels, OpenAIRequest, OpenAIResponse
from service.api.state import Caller, state_of
from service.api.vectors import shown
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
    """Vectors of texts: those of `POST /embed`, so not of length 1. Texts only: no lists of tokens."""
    caller, state = Caller(request), state_of(request)
    body = await OpenAIRequest.of(request)
    state.accept_texts(len(body.input))
    _check(body, state.embedder.model)
    result = await state.embedder.embed(body.input, caller.wait)
    if result.errors:
        raise NoVector(result.errors[0], "input")
    tokens = await asyncio.to_thread(_count_tokens, result.model, body.input)
    vectors = shown(result, in_base64=body.encoding_format == "base64", dimensions=body.dimensions)
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
    """The one model that is served."""
    name = state_of(request).embedder.model.name
    model = {"id": name, "object": "model", "created": 0, "owned_by": "danmaku"}
    return json_response({"object": "list", "data": [model]})


def _check(body: OpenAIRequest, model: Model) -> None:
    if body.model != model.name:
        raise NotFound(f"there is no model {body.model!r} here; {model.name!r} is served")
    if body.dimensions and body.dimensions > model.dim:
        raise InvalidRequest(f"dimensions: {model.name!r} has {model.dim} and cannot be asked for {body.dimensions}")


def _count_tokens(model: Model, texts: Sequence[str]) -> int:
    """What the model reads of them, [CLS] and [SEP] not counted."""
    prepared = model.prepare([model.normalize(text) for text in texts])
    return sum(text.num_tokens - 2 for text in prepared)
