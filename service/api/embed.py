"""POST /embed: a list of danmaku in, a list of vectors out."""

from __future__ import annotations

import io

import numpy as np
from fastapi import APIRouter, Request, Response

from service.api.reading import header
from service.api.responses import ERRORS, PlainRoute, json_response
from service.api.schemas import EmbedRequest, EmbedResponse
from service.api.state import Caller, state_of
from service.api.stream import NDJSON, OPENAPI, EmbedStream, is_stream
from service.api.vectors import shown
from service.ranking import unit

NPY = "application/x-npy"

BESIDES_JSON = {
    NPY: {"schema": {"type": "string", "format": "binary"}},
    NDJSON: {"schema": {"type": "string"}},
}

router = APIRouter(tags=["embeddings"], route_class=PlainRoute)


@router.post(
    "/embed",
    openapi_extra={**OPENAPI, **EmbedRequest.openapi({NDJSON: {"type": "string"}})},
    responses={**ERRORS, 200: {"model": EmbedResponse, "content": BESIDES_JSON}},
)
async def embed(request: Request) -> Response:
    """Vectors of texts, in their order.

    A text that cannot be embedded gives `null` in its place and an entry in `errors`; it never sinks the list.
    With `Accept: application/x-npy` the answer is one float32 matrix in NumPy's format, with a row of NaN for such a
    text, the fingerprint in the header `X-Danmaku-Fingerprint` and the number of truncated texts in
    `X-Danmaku-Truncated`.

    `Content-Type: application/x-ndjson` makes it a stream of any length: each line a text, or `{"text", "id"}`; the
    options in the query. The answer begins with a line `{"model", "fingerprint", "dim"}`, and has one for each text,
    `{"index", "id", "embedding", "truncated", "error", "error_type"}`, as far as there is something to say. Blank lines
    are no texts. What ends it early is a last line of `error` and `error_type` alone. Read the answer while you
    send: no more is read from who does not. `X-Timeout-Ms` is for each slice of at most 256 lines.
    """
    if is_stream(request.scope):
        return EmbedStream(request)
    caller, state = Caller(request), state_of(request)
    body = await EmbedRequest.of(request)
    state.accept_texts(len(body.texts))
    embeddings = await state.embedder.embed(body.texts, caller.wait)
    if NPY.encode() in (header(request.scope, b"accept") or b""):
        truncated = str(len(embeddings.truncated))
        headers = {"X-Danmaku-Fingerprint": embeddings.model.fingerprint, "X-Danmaku-Truncated": truncated}
        vectors = unit(embeddings.vectors) if body.normalize else embeddings.vectors
        return Response(_npy(vectors), headers=headers, media_type=NPY)
    model = embeddings.model
    return json_response(
        {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "dim": model.dim,
            "embeddings": shown(embeddings, normalize=body.normalize, in_base64=body.encoding == "base64"),
            "truncated": embeddings.truncated,
            "errors": embeddings.errors,
        }
    )


def _npy(vectors: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getvalue()
