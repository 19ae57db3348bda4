"""POST /embed: a list of danmaku in, a list of vectors out."""

from __future__ import annotations

import io

import numpy as np
import orjson
import pybase64
from fastapi import APIRouter, Request, Response

from service.api.responses import ERRORS, PlainRoute, json_response
from service.api.schemas import EmbedRequest, EmbedResponse
from service.api.state import Caller, state_of
from service.embedder import Embeddings
from service.similarity import unit

NPY = "application/x-npy"

router = APIRouter(tags=["embeddings"], route_class=PlainRoute)


@router.post("/embed", openapi_extra=EmbedRequest.openapi(), responses={**ERRORS, 200: {"model": EmbedResponse}})
async def embed(request: Request) -> Response:
    """Vectors of texts, in their order.

    A text that cannot be embedded gives `null` in its place and an entry in `errors`; it never sinks the list.
    With `Accept: application/x-npy` the answer is one float32 matrix in NumPy's format, with a row of NaN for such a
    text, the fingerprint in the header `X-Danmaku-Fingerprint` and the number of truncated texts in
    `X-Danmaku-Truncated`.
    """
    caller, state = Caller(request), state_of(request)
    body = await EmbedRequest.of(request)
    state.accept_texts(len(body.texts))
    embeddings = await state.embedder.embed(body.texts, caller.wait)
    if NPY in request.headers.get("accept", ""):
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
            "embeddings": _shown(embeddings, normalize=body.normalize, in_base64=body.encoding == "base64"),
            "truncated": embeddings.truncated,
            "errors": embeddings.errors,
        }
    )


def _shown(embeddings: Embeddings, *, normalize: bool, in_base64: bool) -> list[object]:
    """What stands for each text in the JSON: numbers, base64, or null."""
    rows = embeddings.rows
    if normalize:
        units = unit(embeddings.vectors)
        rows = [None if row is None else vector.tobytes() for row, vector in zip(rows, units, strict=True)]
    if in_base64:  # as it is, since nothing in base64 needs escaping
        return [None if row is None else orjson.Fragment(b'"%b"' % pybase64.b64encode(row)) for row in rows]
    return [None if row is None else np.frombuffer(row, "<f4") for row in rows]


def _npy(vectors: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getvalue()
