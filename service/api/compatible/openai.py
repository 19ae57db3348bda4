"""Implements OpenAI's API: POST /v1/embeddings, GET /v1/models.

As with OpenAI, vectors have length 1, and errors are objects whose message OpenAI's clients show; `responses.py` makes
them for every path below /v1. OpenAI's format has no place for a text without a vector, so a blank text causes a 422
for the whole list, before anything is encoded. A text of unknown characters gets the model's vector of [UNK], as with
other servers, and the header X-Danmaku-Unknown names it.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.http.caller import Caller
from service.api.http.responses import OPENAI_ERRORS, PlainRoute, json_response
from service.api.http.schemas import (
    OpenAIError,
    OpenAIModel,
    OpenAIModels,
    OpenAIRequest,
    OpenAIResponse,
    describe_path,
)
from service.api.http.state import get_state
from service.api.vectors import check_dimensions, embed_whole, name_unknown, vectors_response
from service.encoders.model import Model
from service.errors import NotFound

router = APIRouter(tags=["OpenAI's shape"], route_class=PlainRoute)

OTHER_MODEL = {"model": OpenAIError, "description": "Another model is served; `GET /v1/models` names it."}


@router.post(
    "/v1/embeddings",
    openapi_extra=OpenAIRequest.openapi(),
    responses={**OPENAI_ERRORS, 404: OTHER_MODEL, 200: {"model": OpenAIResponse}},
)
async def embeddings(request: Request) -> Response:
    """Returns the vectors of `POST /embed`, scaled to length 1. Accepts texts only, no lists of tokens.

    A blank text is an error for the whole list. A text whose characters are all unknown to the model gets the vector of
    [UNK]; the header `X-Danmaku-Unknown` has the indices of such texts, at most the first 100. `null` is the default of
    every field, and unknown fields are ignored. Errors are `{"error": {"message", "type", "param", "code"}}`.
    """
    caller, state = Caller(request), get_state(request)
    body = await OpenAIRequest.read(request)
    state.accept_texts(len(body.input))
    _check_name(body.model, state.embedder.model)
    check_dimensions(state.embedder.model, body.dimensions)
    result = await caller.wait(embed_whole(state, body.input, "input"))
    tokens = await result.count_tokens()
    return vectors_response(
        {"object": "list"},
        "data",
        result,
        {"model": result.model.name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}},
        normalize=True,
        in_base64=body.encoding_format == "base64",
        dimensions=body.dimensions,
        wrap=lambda index, vector: {"object": "embedding", "index": index, "embedding": vector},
        headers=name_unknown(result),
    )


@router.get("/v1/models", responses={200: {"model": OpenAIModels}, **{s: OPENAI_ERRORS[s] for s in (401, 503)}})
async def models(request: Request) -> Response:
    """Lists the one model that is served."""
    return json_response({"object": "list", "data": [_describe(get_state(request).embedder.model)]})


@router.get(
    "/v1/models/{id}",
    openapi_extra={"parameters": describe_path("id")},
    responses={200: {"model": OpenAIModel}, 404: OTHER_MODEL, **{s: OPENAI_ERRORS[s] for s in (401, 503)}},
)
async def model(request: Request) -> Response:
    """Returns the model of that name, if it is the one that is served."""
    served = get_state(request).embedder.model
    _check_name(request.path_params["id"], served)
    return json_response(_describe(served))


def _describe(model: Model) -> dict[str, object]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "danmaku"}


def _check_name(name: str | None, model: Model) -> None:
    if name not in (None, model.name):
        error = NotFound(f"invalid model {name!r}: expected {model.name!r}, the one that is served")
        error.param = "model"
        raise error
