"""POST /embed: a list of danmaku in, a list of vectors out."""

from __future__ import annotations

import base64
import io

import numpy as np
from fastapi import APIRouter, Request, Response

from service.api.responses import ERRORS, json_response
from service.api.schemas import EmbedRequest, EmbedResponse
from service.api.state import accept_texts, state_of, while_connected
from service.embedder import Embeddings
from service.encoders.base import Encoder
from service.similarity import unit

NPY = "application/x-npy"

router = APIRouter(tags=["embeddings"])


@router.post("/embed", openapi_extra=EmbedRequest.openapi(), responses={**ERRORS, 200: {"model": EmbedResponse}})
async def embed(request: Request) -> Response:
    """Vectors of texts, in their order.

    A text that cannot be embedded gives `null` in its place and an entry in `errors`; it never sinks the list.
    With `Accept: application/x-npy` the answer is one float32 matrix in NumPy's format, with a row of NaN for such a
    text, the fingerprint in the header `X-Danmaku-Fingerprint` and the number of truncated texts in
    `X-Danmaku-Truncated`.
    """
    body = await EmbedRequest.of(request)
    state = state_of(request)
    accept_texts(state, len(body.texts))
    embeddings = await while_connected(request, state.embedder.embed(body.texts))
    vectors = unit(embeddings.vectors) if body.normalize else embeddings.vectors
    encoder = state.embedder.encoder
    if NPY in request.headers.get("accept", ""):
        truncated = str(len(embeddings.truncated))
        headers = {"X-Danmaku-Fingerprint": encoder.fingerprint, "X-Danmaku-Truncated": truncated}
        return Response(_npy(vectors), headers=headers, media_type=NPY)
    return json_response(_content(encoder, embeddings, vectors, in_base64=body.encoding == "base64"))


def _content(encoder: Encoder, embeddings: Embeddings, vectors: np.ndarray, *, in_base64: bool) -> dict[str, object]:
    rows: list[object] = [base64.b64encode(row.tobytes()).decode() for row in vectors] if in_base64 else list(vectors)
    for error in embeddings.errors:
        rows[error.index] = None
    return {
        "model": encoder.model,
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "embeddings": rows,
        "truncated": embeddings.truncated,
        "errors": embeddings.errors,
    }


def _npy(vectors: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getvalue()
