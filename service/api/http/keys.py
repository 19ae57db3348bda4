"""Checks API keys.

The settings hold only SHA-256 hashes, so neither a list of processes nor a settings file reveals a key. A key is 256
random bits; for these, one round of SHA-256 is as safe as a slow hash, which would delay every request.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import socket
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.accounts import Accounts, current_account
from service.api.http.pages import SAFE_METHODS
from service.errors import ConfigurationError, QuotaSpent, RateExceeded, Unauthorized

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health", "/metrics", "/", "/live", "/docs", "/openapi.json"})
COLLECTIONS, USAGE = "/collections/", "/usage"
REFUSE_AFTER_S = 0.5
STATIC_PATHS = ("/static-offline-docs/", "/static/")
SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def make_key() -> str:
    return f"danmaku_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def check_host(host: str, *, has_keys: bool, allow_anonymous: bool) -> None:
    """Raises ConfigurationError if other machines could use the gateway without a key."""
    if has_keys or allow_anonymous:
        return
    if exposed := [address for address in _resolve(host) if not ipaddress.ip_address(address).is_loopback]:
        raise ConfigurationError(
            f"host {host!r} listens on {exposed[0]}, which other machines can reach, but there are no API keys: make "
            "one with `danmaku key` and pass its hash as --api-key-hashes, or pass --allow-anonymous true"
        )


def _resolve(host: str) -> list[str]:
    """Returns the addresses to listen on for a host name."""
    if not host:
        return ["0.0.0.0"]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"invalid host {host!r}: expected an address or a name that resolves to one ({error})"
        ) from None
    return [str(address[0]).partition("%")[0] for *_, address in found]


def require_keys(app: FastAPI, accounts: Accounts) -> None:
    """Adds `RequireKey`, and declares it in the OpenAPI document, whose page then asks for a key."""
    app.add_middleware(RequireKey, accounts=accounts)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document.setdefault("components", {})["securitySchemes"] = SCHEMES
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if not _is_open(path, method.upper()):
                    operation["security"] = [{name: []} for name in SCHEMES]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it


class RequireKey:
    """ASGI middleware that raises for a request that its key does not allow, before the body is read.

    Raises Unauthorized without a valid key, Forbidden, RateExceeded and QuotaSpent. The last two are raised after a
    short delay, so a client that does not wait costs the others little.
    """

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self._app, self._accounts = app, accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"], scope["method"]):
            return await self._app(scope, receive, send)
        key = _find_key(scope)
        if key is None:
            raise Unauthorized("missing API key: expected Authorization: Bearer KEY or X-API-Key: KEY")
        account = self._accounts.find(hashlib.sha256(key).digest())
        if account is None:
            raise Unauthorized("invalid API key")
        current_account.set(account)
        if scope["path"].startswith(COLLECTIONS):
            name = scope["path"].removeprefix(COLLECTIONS).partition("/")[0]
            account.check_collection(name, writes=scope["method"] not in SAFE_METHODS)
        if scope["path"] != USAGE:
            try:
                account.check()
            except (RateExceeded, QuotaSpent):
                account.refused_today += 1
                await asyncio.sleep(REFUSE_AFTER_S)
                raise
            account.charge(1)
        await self._app(scope, receive, send)


def _is_open(path: str, method: str) -> bool:
    """Returns whether a path needs no key; `POST /` needs one, because it embeds texts."""
    return path in OPEN_PATHS and (path != "/" or method in SAFE_METHODS) or path.startswith(STATIC_PATHS)


def _find_key(scope: Scope) -> bytes | None:
    key = None
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return bytes(value)
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            key = value[7:].strip()
    return key
