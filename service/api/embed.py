"""POST /embed: returns a list of vectors for a list of danmaku."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from fastapi import APIRouter, Request, Response

from service.api.compatible.text_embeddings_inference import InputsRequest, answer_inputs
from service.api.http.body import read_body
from service.api.http.caller import Caller
from service.api.http.headers import NDJSON, find_header, is_ndjson
from service.api.http.pieces import PIECE_BYTES, PiecedResponse
from service.api.http.responses import ERRORS, PlainRoute
from service.api.http.schemas import EmbedRequest, EmbedResponse, StreamOptions
from service.api.http.state import get_state
from service.api.stream import OPENAPI, EmbedStream, refuse_options
from service.api.vectors import check_dimensions, cut_vectors, vectors_response
from service.embedder import Embeddings, to_matrix
from service.shape import LONG_BYTES, parse_json
from service.tasks import run_in_thread_if

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
    With `Accept: application/x-npy`, the response is one float32 matrix in NumPy's format, with a row of NaN for such a
    text, the fingerprint in the header `X-Danmaku-Fingerprint` and the number of truncated texts in
    `X-Danmaku-Truncated`.

    A body with `inputs` instead of `texts` is a request for text-embeddings-inference; see `POST /`.

    With `Content-Type: application/x-ndjson`, the body is a stream of any length: each line is a text or
    `{"text", "id"}`, and the options are in the query. The response begins with a line
    `{"model", "fingerprint", "dim"}`, followed by one line for each text,
    `{"index", "id", "embedding", "truncated", "error", "error_type"}`, without the fields that do not apply. Blank
    lines are skipped. If the stream ends early, its last line has only `error` and `error_type`. Read the response
    while you send: the gateway stops reading while the response is not read. `X-Timeout-Ms` applies to each slice of at
    most 256 lines.
    """
    if is_ndjson(request.scope):
        return EmbedStream(request)
    refuse_options(request, StreamOptions)
    caller, state = Caller(request), get_state(request)
    sent = await read_body(request)
    body = await run_in_thread_if(len(sent) > LONG_BYTES, lambda: _parse(sent))
    if isinstance(body, InputsRequest):
        return await answer_inputs(caller, state, body)
    state.accept_texts(len(body.texts))
    check_dimensions(state.embedder.model, body.dimensions)
    embeddings = await caller.wait(state.embedder.embed(body.texts))
    if NPY.encode() in (find_header(request.scope, b"accept") or b""):
        truncated = str(len(embeddings.truncated))
        headers = {"X-Danmaku-Fingerprint": embeddings.model.fingerprint, "X-Danmaku-Truncated": truncated}
        return _to_npy(embeddings, normalize=body.normalize, dimensions=body.dimensions, headers=headers)
    model = embeddings.model
    return vectors_response(
        {"model": model.name, "fingerprint": model.fingerprint, "dim": body.dimensions or model.dim},
        "embeddings",
        embeddings,
        {"truncated": embeddings.truncated, "errors": embeddings.errors},
        normalize=body.normalize,
        in_base64=body.encoding == "base64",
        dimensions=body.dimensions,
    )


def _parse(body: bytes) -> EmbedRequest | InputsRequest:
    content = parse_json(body, "the body")
    is_inputs = isinstance(content, dict) and "inputs" in content
    return InputsRequest.from_json(content) if is_inputs else EmbedRequest.from_json(content)


def _to_npy(embeddings: Embeddings, *, normalize: bool, dimensions: int | None, headers: dict[str, str]) -> Response:
    """Returns the matrix of vectors in NumPy's format, in pieces."""
    count, dim = len(embeddings.rows), dimensions or embeddings.model.dim
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, dim)})
    head = file.getvalue()

    def pieces() -> Iterator[bytes]:
        yield head
        step = max(1, PIECE_BYTES // (4 * dim))
        for start in range(0, count, step):
            vectors = to_matrix(embeddings.rows[start : start + step], embeddings.model.dim)
            yield cut_vectors(vectors, normalize=normalize, dimensions=dimensions).tobytes()

    return PiecedResponse(pieces(), NPY, headers | {"Content-Length": str(len(head) + 4 * count * dim)})
