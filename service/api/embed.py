"""POST /embed: a list of danmaku in, a list of vectors out."""

from __future__ import annotations

import io

import numpy as np
from fastapi import APIRouter, Request, Response

from service.api.caller import Caller
from service.api.headers import NDJSON, find_header, is_ndjson
from service.api.responses import ERRORS, PlainRoute, json_response
from service.api.schemas import EmbedRequest, EmbedResponse
from service.api.state import get_state
from service.api.stream import OPENAPI, EmbedStream
from service.api.vectors import format_vectors
from service.vectors import unit

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
    """Returns the vectors of texts, in their order.

    A text that cannot be embedded has `null` in its place and an entry in `errors`; the other texts are not affected.
    With `Accept: application/x-npy` the answer is one float32 matrix in NumPy's format, with a row of NaN for such a
    text, the fingerprint in the header `X-Danmaku-Fingerprint` and the number of truncated texts in
    `X-Danmaku-Truncated`.

    `Content-Type: application/x-ndjson` makes it a stream of any length: each line is a text or `{"text", "id"}`, and
    the options are in the query. The answer begins with a line `{"model", "fingerprint", "dim"}`, followed by one line
    for each text, `{"index", "id", "embedding", "truncated", "error", "error_type"}`, without the fields that do not
    apply. Blank lines are skipped. If the stream ends early, its last line has only `error` and `error_type`. Read the
    answer while you send: the gateway stops reading while the answer is not read. `X-Timeout-Ms` applies to each slice
    of at most 256 lines.
    """
    if is_ndjson(request.scope):
        return EmbedStream(request)
    caller, state = Caller(request), get_state(request)
    body = await EmbedRequest.read(request)
    state.accept_texts(len(body.texts))
    embeddings = await caller.wait(state.embedder.embed(body.texts))
    if NPY.encode() in (find_header(request.scope, b"accept") or b""):
        truncated = str(len(embeddings.truncated))
        headers = {"X-Danmaku-Fingerprint": embeddings.model.fingerprint, "X-Danmaku-Truncated": truncated}
        vectors = unit(embeddings.vectors) if body.normalize else embeddings.vectors
        return Response(_to_npy(vectors), headers=headers, media_type=NPY)
    model = embeddings.model
    return json_response(
        {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "dim": model.dim,
            "embeddings": format_vectors(embeddings, normalize=body.normalize, in_base64=body.encoding == "base64"),
            "truncated": embeddings.truncated,
            "errors": embeddings.errors,
        }
    )


def _to_npy(vectors: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getvalue()
