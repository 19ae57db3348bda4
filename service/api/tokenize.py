"""POST /tokenize: what the model sees of a text."""

from __future__ import annotations

import asyncio

import orjson
from fastapi import APIRouter, Request, Response

from service.api.responses import ERRORS, PlainRoute, json_response
from service.api.schemas import ErrorBody, TokenizeRequest, TokenizeResponse
from service.api.state import state_of
from service.encoders.inputs import Inputs
from service.errors import InvalidRequest, NoVocabulary

router = APIRouter(tags=["embeddings"], route_class=PlainRoute)


@router.post(
    "/tokenize",
    openapi_extra=TokenizeRequest.openapi(),
    responses={
        **{status: answer for status, answer in ERRORS.items() if status not in (429, 504)},
        404: {"model": ErrorBody, "description": "The encoder does not tell its vocabulary."},
        200: {"model": TokenizeResponse},
    },
)
async def tokenize(request: Request) -> Response:
    """Tokens of texts, what the vocabulary cannot spell, and what is cut off.

    A word becomes [UNK] as a whole if one of its characters is in no token, or if it has more than 100.
    """
    state = state_of(request)
    body = await TokenizeRequest.of(request)
    state.accept_texts(len(body.texts))
    longest = state.settings.max_text_characters
    if too_long := [index for index, text in enumerate(body.texts) if len(text) > longest]:
        raise InvalidRequest(f"texts.{too_long[0]}: the text has more than {longest} characters")
    model = state.embedder.model
    if not isinstance(model.reader, Inputs):
        raise NoVocabulary(f"the encoder of {model.name!r} does not tell its vocabulary, so nobody here can tokenize")
    reader = model.reader
    results = await asyncio.to_thread(lambda: [_explained(reader, text) for text in body.texts])
    return json_response(
        {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "max_seq_len": model.max_seq_len,
            "results": results,
        }
    )


def _explained(reader: Inputs, text: str) -> orjson.Fragment:
    """As JSON at once: many texts at a time would be a great many objects."""
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
