"""API keys: who is let in.

The settings hold SHA-256 hashes only, so that neither a list of processes nor a file of settings gives a key away. A
key is 256 random bits; for such, one round of SHA-256 is as good as a slow hash, which every request would pay for.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.responses import error_response
from service.errors import ConfigurationError, Unauthorized

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json"})
STATIC_PATHS = ("/static-offline-docs/", "/static/")
SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def new_key() -> str:
    return f"danmaku_{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def check_host(host: str, *, has_keys: bool, allow_anonymous: bool) -> None:
    """Raises ConfigurationError if others than this machine's own users could come in unasked."""
    if has_keys or allow_anonymous:
        return
    if others := [address for address in _addresses(host) if not ipaddress.ip_address(address).is_loopback]:
        raise ConfigurationError(
            f"host {host!r} listens on {others[0]}, which other machines may reach, and there are no API keys: "
            "make one with `danmaku key` and give its hash as --api-key-hashes, or say --allow-anonymous true"
        )


def _addresses(host: str) -> list[str]:
    """What the host's name stands for when it is listened on."""
    if not host:
        return ["0.0.0.0"]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"host {host!r} stands for no address: {error}") from None
    return [str(address[0]).partition("%")[0] for *_, address in found]


def require_keys(app: FastAPI, hashes: Sequence[str]) -> None:
    """Lets nobody in without one of the keys, and says so in the OpenAPI document, whose page then asks for one."""
    app.add_middleware(RequireKey, hashes=hashes)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document.setdefault("components", {})["securitySchemes"] = SCHEMES
        for path, methods in document["paths"].items():
            if path not in OPEN_PATHS:
                for operation in methods.values():
                    operation["security"] = [{name: []} for name in SCHEMES]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it


class RequireKey:
    """Answers 401 to who has no key, before anything of a body is read."""

    def __init__(self, app: ASGIApp, hashes: Sequence[str]) -> None:
        self._app, self._digests = app, [bytes.fromhex(entry) for entry in hashes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["path"].startswith(STATIC_PATHS):
            return await self._app(scope, receive, send)
        key = _given_key(scope)
        if key is None:
            message = "this needs an API key, as Authorization: Bearer KEY or X-API-Key: KEY"
        elif self._knows(key):
            return await self._app(scope, receive, send)
        else:
            message = "the API key is none of those that are let in"
        return await error_response(Unauthorized(message))(scope, receive, send)

    def _knows(self, key: bytes) -> bool:
        digest = hashlib.sha256(key).digest()
        # All are compared, so that time does not tell which one was close.
        return any([hmac.compare_digest(digest, known) for known in self._digests])


def _given_key(scope: Scope) -> bytes | None:
    key = None
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return bytes(value)
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            key = value[7:].strip()
    return key
