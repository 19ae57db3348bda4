"""POST /tokenize: shows what the model sees of a text."""

from __future__ import annotations

import asyncio

import orjson
from fastapi import APIRouter, Request, Response

from service.api.responses import ERRORS, PlainRoute, json_response
from service.api.schemas import ErrorBody, TokenizeRequest, TokenizeResponse
from service.api.state import get_state
from service.encoders.inputs import Inputs
from service.errors import InvalidRequest, NoVocabulary

router = APIRouter(tags=["embeddings"], route_class=PlainRoute)


@router.post(
    "/tokenize",
    openapi_extra=TokenizeRequest.openapi(),
    responses={
        **{status: answer for status, answer in ERRORS.items() if status not in (429, 504)},
        404: {"model": ErrorBody, "description": "The encoder does not reveal its vocabulary."},
        200: {"model": TokenizeResponse},
    },
)
async def tokenize(request: Request) -> Response:
    """Returns the tokens of texts, the words outside the vocabulary, and what is cut off.

    A whole word becomes [UNK] if one of its characters is in no token, or if it has more than 100 characters.
    """
    state = get_state(request)
    body = await TokenizeRequest.read(request)
    state.accept_texts(len(body.texts))
    longest = state.settings.max_text_characters
    if too_long := [index for index, text in enumerate(body.texts) if len(text) > longest]:
        raise InvalidRequest(f"invalid texts.{too_long[0]}: expected at most {longest} characters")
    model = state.embedder.model
    if not isinstance(model.reader, Inputs):
        raise NoVocabulary(f"cannot tokenize: the encoder of {model.name!r} does not reveal its vocabulary")
    reader = model.reader
    results = await asyncio.to_thread(lambda: [_explain(reader, text) for text in body.texts])
    return json_response(
        {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "max_seq_len": model.max_seq_len,
            "results": results,
        }
    )


def _explain(reader: Inputs, text: str) -> orjson.Fragment:
    """Returns the JSON of one text at once, because the objects of many texts would take much memory."""
    read = reader.explain(text)
    unknown = [{"text": text[start:end], "start": start, "end": end} for start, end in read.unknown]
    return orjson.Fragment(
        orjson.dumps(
            {
                "tokens": read.tokens,
                "ids": read.ids,
                "num_tokens": len(read.ids),
                "unknown": unknown,
                "truncated": text[read.end :],
            }
        )
    )
