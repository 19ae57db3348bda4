"""Receives the body of a request within a time limit, decompressed, as a whole or line by line.

`ReceiveBody` wraps all routes. A gzipped body is unpacked as it is read, one piece at a time, so a bomb reaches the
reader's limit after its first few pieces. Routes that need the whole body call `read_body`; the others read `slices` of
lines, or nothing.
"""

from __future__ import annotations

import asyncio
import codecs
import time
import zlib
from collections.abc import AsyncIterator
from itertools import takewhile
from typing import NoReturn

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.headers import find_header
from service.api.http.state import get_state
from service.errors import BodyTimeout, ClientGone, DamagedBody, TooLarge, UnknownEncoding
from service.memory import SMALL_BYTES, hold_bytes, release_bytes

PIECE_BYTES = 64 * 2**10
GZIP = zlib.MAX_WBITS + 16  # zlib's code for gzip's header and checksum
MIN_BODY_BYTES_PER_S = 4096
PARSED_TIMES = 2  # the memory of a body's parsed values, in bodies
MAX_EMPTY_BYTES = 64 * 2**10  # of gzip members that unpack to nothing
MAX_PACKED_TIMES = 32  # gzip may be larger than its content, for example with a member for each line of a log


async def read_body(request: Request) -> bytes:
    """Returns the whole body: in less than half the time of starlette's `Request.body`.

    Raises TooLarge over max_body_bytes, MemoryFull if all requests together hold too much, ClientGone if the caller
    hangs up early, and the errors of `ReceiveBody`.
    """
    max_bytes = get_state(request).settings.max_body_bytes
    length = find_header(request.scope, b"content-length")
    if length is not None and int(length) > max_bytes:  # the HTTP server has checked that it is a number
        raise _too_large(max_bytes)
    pieces, size, held, more = [], 0, 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client disconnected while sending the body")
        piece, more = message.get("body", b""), message.get("more_body", False)
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if size - held > SMALL_BYTES:
            hold_bytes(size - held)
            held = size
    if size > SMALL_BYTES:
        hold_bytes(PARSED_TIMES * size)
    return b"".join(pieces)


async def slices(receive: Receive, *, max_lines: int, max_line_bytes: int) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Yields the lines of a body as they arrive, without blank ones, each time with the index of the first.

    Raises TooLarge after the lines that precede a line over the limit, MemoryFull and ClientGone.
    """
    index, rest, held, more = 0, bytearray(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client disconnected while sending the body")
        more = message.get("more_body", False)
        *whole, last = message.get("body", b"").split(b"\n")
        if whole:
            whole[0] = bytes(rest) + whole[0]
            rest.clear()
        rest += last
        if len(rest) - held > SMALL_BYTES:
            hold_bytes(PARSED_TIMES * (len(rest) - held))
            held = len(rest)
        if not more:
            whole.append(bytes(rest))
        if index == 0 and whole:
            whole[0] = whole[0].removeprefix(codecs.BOM_UTF8)
        lines = [line for line in whole if line and not line.isspace()]
        short = list(takewhile(lambda line: len(line) <= max_line_bytes, lines))
        for at in range(0, len(short), max_lines):
            yield index + at, short[at : at + max_lines]
        if held and whole:
            release_bytes(PARSED_TIMES * held)
            held = 0
        index += len(short)
        if len(short) < len(lines) or len(rest) > max_line_bytes:
            raise TooLarge(
                f"line too long: line {index}, counted from 0, has over {max_line_bytes} bytes; it and the lines after "
                "it were ignored"
            )


async def receive_hang_up(receive: Receive) -> None:
    """Discards the rest of the request, and returns when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"body too large: expected at most {max_bytes} bytes; send the texts in several requests")


class ReceiveBody:
    """ASGI middleware whose `receive` unpacks gzip and raises errors for a body that is late or damaged.

    Raises UnknownEncoding before anything is read. `receive` may raise BodyTimeout and DamagedBody.
    """

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self._app, self._timeout_s = app, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope.get("is_whole"):  # see `Connection`; a timer would cost more than all the rest here
                receive = _limit_time(receive, self._timeout_s)
            encodings = [value for name, value in scope["headers"] if name == b"content-encoding"]
            encoding = b",".join(encodings).strip().lower()
            if encoding not in (b"", b"identity"):
                if encoding not in (b"gzip", b"x-gzip"):
                    name = encoding.decode("latin-1")
                    raise UnknownEncoding(f"invalid Content-Encoding {name!r}: expected gzip or none")
                removed = (b"content-encoding", b"content-length")
                scope = {**scope, "headers": [header for header in scope["headers"] if header[0] not in removed]}
                receive = _Gunzip(receive).receive
        await self._app(scope, receive, send)


def _limit_time(receive: Receive, timeout_s: float) -> Receive:
    """Returns a `receive` that raises BodyTimeout when it has waited for the client for too long.

    Only time spent waiting counts, and received bytes earn more time: a long body may take as long as it needs, while a
    body that arrives byte by byte soon runs out of time.
    """
    left_s = timeout_s
    is_whole = False

    async def receive_in_time() -> Message:
        nonlocal left_s, is_whole
        if is_whole:  # from now on it waits for the end of the connection
            return await receive()
        started = time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                message = await receive()
        except TimeoutError:
            raise BodyTimeout(f"the body did not arrive within {timeout_s:g} s") from None
        earned_s = len(message.get("body", b"")) / MIN_BODY_BYTES_PER_S
        left_s = min(timeout_s, left_s - (time.monotonic() - started) + earned_s)
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time


class _Gunzip:
    """A `receive` that returns the unpacked body. Raises DamagedBody."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._packed = b""
        self._more_packed = True
        self._is_open = False  # inside a member: gzip is one or several members, one after the other
        self._is_full = False  # the last piece was full, so there may be more without more input
        self._is_read = False
        self._packed_bytes = self._unpacked_bytes = 0

    async def receive(self) -> Message:
        while self._packed or self._is_full or self._more_packed:
            if self._packed or self._is_full:
                if piece := self._unpack_piece():
                    await asyncio.sleep(0)  # little input can unpack to a lot, and other requests need their turn
                    return {"type": "http.request", "body": piece, "more_body": True}
                continue
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._packed, self._more_packed = message.get("body", b""), message.get("more_body", False)
            self._packed_bytes += len(self._packed)
            await asyncio.sleep(0)
        if self._is_read:
            return await self._receive()  # the end of the connection
        self._is_read = True
        if self._is_open:
            raise DamagedBody("invalid gzip in the body: it is truncated")
        return {"type": "http.request", "body": b"", "more_body": False}

    def _unpack_piece(self) -> bytes:
        if not self._is_open:
            self._inflate, self._is_open = zlib.decompressobj(GZIP), True
            self._member_bytes = 0
        try:
            piece = self._inflate.decompress(self._packed, PIECE_BYTES)
        except zlib.error as error:
            self._fail(str(error))
        self._is_open = not self._inflate.eof
        self._member_bytes += len(piece)
        self._unpacked_bytes += len(piece)
        if self._inflate.eof and not self._member_bytes:
            self._fail("a member is empty")
        self._is_full = self._is_open and len(piece) == PIECE_BYTES
        self._packed = self._inflate.unconsumed_tail if self._is_open else self._inflate.unused_data
        read_bytes = self._packed_bytes - len(self._packed)
        if read_bytes > MAX_EMPTY_BYTES + MAX_PACKED_TIMES * self._unpacked_bytes:
            self._fail(f"{read_bytes} bytes unpack to {self._unpacked_bytes}")
        return piece

    def _fail(self, reason: str) -> NoReturn:
        self._packed, self._is_full, self._more_packed = b"", False, False  # the rest cannot be read
        self._is_open, self._is_read = False, True
        raise DamagedBody(f"invalid gzip in the body: {reason}")
