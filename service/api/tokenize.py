"""POST /tokenize: shows what the model sees of a text."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import orjson
from fastapi import APIRouter, Request, Response

from service.api.http.caller import Caller
from service.api.http.pieces import json_list
from service.api.http.responses import ERRORS, PlainRoute
from service.api.http.schemas import ErrorBody, TokenizeRequest, TokenizeResponse
from service.api.http.state import get_state
from service.encoders.inputs import Inputs
from service.errors import InvalidRequest, NoVocabulary, TooLarge
from service.memory import hold_bytes

MAX_ANSWER_BYTES = 32 * 2**20
RESULTS_PER_PIECE = 64

router = APIRouter(tags=["embeddings"], route_class=PlainRoute)


@router.post(
    "/tokenize",
    openapi_extra=TokenizeRequest.openapi(),
    responses={
        **{status: answer for status, answer in ERRORS.items() if status != 429},
        404: {"model": ErrorBody, "description": "The encoder does not reveal its vocabulary."},
        200: {"model": TokenizeResponse},
    },
)
async def tokenize(request: Request) -> Response:
    """Returns the tokens of texts, the words outside the vocabulary, and the truncated part.

    A whole word becomes [UNK] if one of its characters is in no token, or if it has more than 100 characters.
    """
    caller, state = Caller(request), get_state(request)
    body = await TokenizeRequest.read(request)
    state.accept_texts(len(body.texts))
    longest = state.settings.max_text_characters
    if too_long := [index for index, text in enumerate(body.texts) if len(text) > longest]:
        raise InvalidRequest(f"invalid texts.{too_long[0]}: expected at most {longest} characters")
    model = state.embedder.model
    if not isinstance(model.reader, Inputs):
        raise NoVocabulary(f"cannot tokenize: the encoder of {model.name!r} does not reveal its vocabulary")
    reader = model.reader
    results = await caller.wait(_explain_all(reader, body.texts))
    hold_bytes(sum(map(len, results)))
    before: dict[str, object] = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "max_seq_len": model.max_seq_len,
    }

    def make(start: int, stop: int) -> list[object]:
        return [orjson.Fragment(result) for result in results[start:stop]]

    return json_list(before, "results", len(results), make, {}, per_piece=RESULTS_PER_PIECE)


async def _explain_all(reader: Inputs, texts: Sequence[str]) -> list[bytes]:
    """Explains texts in a thread, which stops when the caller is cancelled. Raises TooLarge."""
    is_over = threading.Event()

    def explain_until_over() -> list[bytes]:
        results: list[bytes] = []
        size = 0
        for text in texts:
            if is_over.is_set():
                break
            results.append(_explain(reader, text))
            size += len(results[-1])
            if size > MAX_ANSWER_BYTES:
                raise TooLarge(f"response too large: over {MAX_ANSWER_BYTES} bytes; send fewer texts at a time")
        return results

    try:
        return await asyncio.to_thread(explain_until_over)
    finally:
        is_over.set()


def _explain(reader: Inputs, text: str) -> bytes:
    """Returns the JSON of one text at once, because the objects of many texts would take much memory."""
    read = reader.explain(text)
    unknown = [{"text": text[start:end], "start": start, "end": end} for start, end in read.unknown]
    return orjson.dumps(
        {
            "tokens": read.tokens,
            "ids": read.ids,
            "num_tokens": len(read.ids),
            "unknown": unknown,
            "truncated": text[read.end :],
        }
    )
