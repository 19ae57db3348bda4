"""What a request brings, read from ASGI as it is: starlette's own `Headers` and `body()` take several times as long."""

from __future__ import annotations

from starlette.types import Receive, Scope

from service.errors import ClientGone, TooLarge


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that name, which is in lower case; None if there is none."""
    for given, value in scope["headers"]:
        if given == name:
            return bytes(value)
    return None


async def read_body(receive: Receive, max_bytes: int | None = None) -> bytes:
    """The whole of it. Raises TooLarge, and ClientGone if it breaks off."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the caller hung up in the middle of the body")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if max_bytes is not None and len(body) > max_bytes:
            raise too_large(max_bytes)
    return bytes(body)


def too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is over {max_bytes} bytes; send the texts in several requests")
