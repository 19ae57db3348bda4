"""Implements text-embeddings-inference's API: POST / and /similarity; and the body `inputs` of POST /embed.

As in the original, vectors have length 1 unless the request says otherwise, and the answer is a bare list. It has no
place for a text without a vector, so a blank text is an error for the whole list, and a text of unknown characters gets
the model's vector of [UNK], as at /v1/embeddings.

Source: router/src/http/types.rs of huggingface/text-embeddings-inference.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.api.http.caller import Caller
from service.api.http.responses import ERRORS, PlainRoute, json_response
from service.api.http.schemas import DIMENSIONS, Body, InputTexts, Texts
from service.api.http.state import State, get_state
from service.api.vectors import check_dimensions, embed_whole, format_vectors, name_unknown
from service.embedder import Embeddings
from service.errors import InvalidRequest
from service.vectors import unit

router = APIRouter(tags=["text-embeddings-inference's shape"], route_class=PlainRoute)


# Older clients write it in lower case. Only one is in the schema, or generated clients would give both the same name.
Direction = Annotated[
    Literal["Right"], BeforeValidator(lambda value: value.capitalize() if isinstance(value, str) else value)
]


class TruncationOptions(BaseModel):
    truncate: bool | None = Field(
        default=None,
        description="If false, a text that exceeds the model's limit is an error. By default, it is truncated.",
    )
    truncation_direction: Direction | None = Field(default=None, description="Texts are always truncated at the end.")
    prompt_name: None = Field(default=None, description="Ignored: no model here has prompts.")


class InputsRequest(TruncationOptions, Body):
    model_config = ConfigDict(extra="ignore")

    inputs: InputTexts = Field(examples=[["草", "awsl"]], description="A text, or a list of texts.")
    normalize: bool | None = Field(None, description="Scale every vector to length 1, which is the default.")
    dimensions: int | None = Field(None, examples=[64], description=DIMENSIONS)


class Compared(BaseModel):
    source_sentence: str = Field(examples=["阿夸"])
    sentences: Texts = Field(examples=[["aqua", "晚安"]], min_length=1)


class SimilarityRequest(Body):
    inputs: Compared
    parameters: TruncationOptions | None = None


@router.post("/", openapi_extra=InputsRequest.openapi(), responses={**ERRORS, 200: {"model": list[list[float]]}})
async def embed_inputs(request: Request) -> Response:
    """Returns the vectors of texts as a bare list, as does `POST /embed` with `inputs`. Vectors have length 1.

    A blank text is an error for the whole list. A text whose characters are all unknown to the model gets the vector of
    [UNK]; the header `X-Danmaku-Unknown` has the indices of such texts, at most the first 100. Unknown fields are
    ignored.
    """
    caller, state = Caller(request), get_state(request)
    return await answer_inputs(caller, state, await InputsRequest.read(request))


async def answer_inputs(caller: Caller, state: State, body: InputsRequest) -> Response:
    state.accept_texts(len(body.inputs))
    check_dimensions(state.embedder.model, body.dimensions)
    result = await caller.wait(embed_whole(state, body.inputs, "inputs"))
    _check_length(result, body, "inputs")
    rows, dim = result.rows, result.model.dim
    vectors = format_vectors(rows, dim, normalize=body.normalize is not False, dimensions=body.dimensions)
    return json_response(vectors, headers=name_unknown(result))


@router.post(
    "/similarity", openapi_extra=SimilarityRequest.openapi(), responses={**ERRORS, 200: {"model": list[float]}}
)
async def similarity(request: Request) -> Response:
    """Returns the cosine similarity of each sentence to the source, as a bare list in the order of the sentences."""
    caller, state = Caller(request), get_state(request)
    body = await SimilarityRequest.read(request)
    compared, options = body.inputs, body.parameters or TruncationOptions()
    state.accept_texts(1 + len(compared.sentences))
    source = await caller.wait(embed_whole(state, [compared.source_sentence], "inputs.source_sentence"))
    found = await caller.wait(embed_whole(state, compared.sentences, "inputs.sentences"))
    _check_length(source, options, "inputs.source_sentence")
    _check_length(found, options, "inputs.sentences")
    return json_response(unit(found.vectors) @ unit(source.vectors)[0], headers=name_unknown(found))


def _check_length(result: Embeddings, options: TruncationOptions, field: str) -> None:
    if options.truncate is False and result.truncated:
        place = f"{field}.{result.truncated[0]}"
        message = (
            f"{place}: the text has more than {result.model.max_seq_len} tokens; expected fewer, or truncate: true"
        )
        raise InvalidRequest(message, param=place)
