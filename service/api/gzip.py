"""Bodies that come packed with gzip, unpacked as they are read.

In pieces, and never more than one of them at a time: what a body unpacks to is for others to limit, and a bomb meets
`LimitBody` after its first few pieces. Answers are packed by starlette's middleware, if the operator asks for it.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.responses import error_response
from service.errors import DamagedBody, UnknownEncoding

PIECE_BYTES = 64 * 2**10
GZIP = zlib.MAX_WBITS + 16  # zlib's word for: with gzip's head and checksum


class Gunzip:
    """Around whatever reads bodies; to what is within, they come plain and of unknown length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        encodings = [value for name, value in scope["headers"] if name == b"content-encoding"]
        encoding = b",".join(encodings).strip().lower()
        if encoding in (b"", b"identity"):
            return await self._app(scope, receive, send)
        if encoding not in (b"gzip", b"x-gzip"):
            error = UnknownEncoding(f"Content-Encoding is {encoding.decode('latin-1')!r}; gzip is taken, or none")
            return await error_response(error)(scope, receive, send)
        plain = [header for header in scope["headers"] if header[0] not in (b"content-encoding", b"content-length")]
        try:
            await self._app({**scope, "headers": plain}, _Unpacked(receive).receive, send)
        except DamagedBody as damaged:  # before any route, which would have answered itself
            await error_response(damaged)(scope, receive, send)


class _Unpacked:
    """`receive` of the body's content. Raises DamagedBody."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._packed = b""
        self._more_packed = True
        self._is_open = False  # within a member: gzip is one or several of them, one after the other
        self._is_full = False  # the last piece was, so there may be more without any more input
        self._is_read = False

    async def receive(self) -> Message:
        while self._packed or self._is_full or self._more_packed:
            if self._packed or self._is_full:
                if piece := self._piece():
                    await asyncio.sleep(0)  # a little can unpack to very much, and others want their turn
                    return {"type": "http.request", "body": piece, "more_body": True}
                continue
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._packed, self._more_packed = message.get("body", b""), message.get("more_body", False)
        if self._is_read:
            return await self._receive()  # the end of the connection
        self._is_read = True
        if self._is_open:
            raise DamagedBody("the body is not whole: its gzip breaks off")
        return {"type": "http.request", "body": b"", "more_body": False}

    def _piece(self) -> bytes:
        if not self._is_open:
            self._inflate, self._is_open = zlib.decompressobj(GZIP), True
        try:
            piece = self._inflate.decompress(self._packed, PIECE_BYTES)
        except zlib.error as error:
            self._packed, self._is_full, self._more_packed = b"", False, False  # there is no reading on
            self._is_open, self._is_read = False, True
            raise DamagedBody(f"the body says that it is gzip, but cannot be unpacked: {error}") from None
        self._is_open = not self._inflate.eof
        self._is_full = self._is_open and len(piece) == PIECE_BYTES
        self._packed = self._inflate.unconsumed_tail if self._is_open else self._inflate.unused_data
        return piece
