"""Sends responses in pieces, so that a large one is never in memory as a whole and never blocks other requests.

A piece is made after the previous one has been sent: an answer that nobody reads takes the memory of one piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from service.memory import SMALL_BYTES, hold_bytes

PIECE_BYTES = 64 * 2**10
NUMBER_BYTES = 11  # of JSON for one number of a vector


class PiecedResponse(Response):
    """A response of pieces that are made one after the other."""

    def __init__(self, pieces: Iterable[bytes], media_type: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(headers=headers, media_type=media_type)
        if not (headers and "Content-Length" in headers):
            del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # lets other requests run
        await send({"type": "http.response.body", "body": b""})


def json_list(
    before: dict[str, object],
    name: str,
    count: int,
    make: Callable[[int, int], Sequence[object]],
    after: dict[str, object],
    *,
    per_piece: int,
    headers: dict[str, str] | None = None,
) -> PiecedResponse:
    """Returns a JSON object with a long list called `name`, of which `make(start, stop)` returns a part."""

    def pieces() -> Iterator[bytes]:
        yield _dump(before)[:-1] + (b"," if before else b"") + _dump(name) + b":["
        for start in range(0, count, per_piece):
            part = _dump(make(start, min(count, start + per_piece)))[1:-1]
            yield b"," + part if start else part
        yield b"]" + b"," * bool(after) + _dump(after)[1:]

    return PiecedResponse(pieces(), "application/json", headers)


def count_per_piece(dim: int) -> int:
    """Returns how many vectors make a piece."""
    return max(1, PIECE_BYTES // (dim * NUMBER_BYTES))


async def send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends a response; a large one no faster than it is read, with its memory counted. May first raise MemoryFull."""
    if isinstance(response, PiecedResponse) or len(getattr(response, "body", b"")) <= SMALL_BYTES:
        return await response(scope, receive, send)
    hold_bytes(len(response.body))
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    body = memoryview(response.body)
    for start in range(0, len(body), PIECE_BYTES):
        piece = bytes(body[start : start + PIECE_BYTES])
        await send({"type": "http.response.body", "body": piece, "more_body": start + PIECE_BYTES < len(body)})


def _dump(content: object) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
