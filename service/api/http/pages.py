"""Refuses requests that web pages of other sites make a browser send.

A browser sends requests to any address that it can reach, including this machine's loopback, for any page that it
shows. The page cannot read the answer, but a form can still empty a collection. A page can also make its own
host name resolve to 127.0.0.1, and then it can read the answers, too. A page cannot evade these three checks:

* `Host` is an address, a name without a dot, or in `--allowed-hosts`. With API keys any host is allowed, because a page
  does not know the key; it is also allowed for the probes and metrics.
* A request that may change something does not come from another site, according to `Sec-Fetch-Site` and `Origin`.
* The body of a change to a collection declares itself as JSON or NDJSON, which a form cannot do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.http.headers import NDJSON_NAMES
from service.errors import ForeignOrigin, UnknownContentType, UnknownHost

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PROBES = ("/healthz", "/readyz", "/health", "/metrics")
CHANGING = "/collections/"  # a POST to the routes below it changes something
BODY_TYPES = (b"application/json", *NDJSON_NAMES)
OWN_SITE = (b"same-origin", b"none")  # none: the user typed the address
MAX_KNOWN_HOSTS = 1024


class RefuseForeignPages:
    """ASGI middleware that raises UnknownHost, ForeignOrigin and UnknownContentType.

    `hosts` are the allowed host names, besides addresses, or `*`; None also allows any.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None, origins: Sequence[str]) -> None:
        self._app, self._origins = app, frozenset(origin.lower().encode() for origin in origins)
        self._is_known = lru_cache(MAX_KNOWN_HOSTS)(lambda host: hosts is None or is_known_host(host, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        host = site = origin = kind = b""
        has_body = False
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"content-type":
                kind = value
            elif (name == b"content-length" and value != b"0") or name == b"transfer-encoding":
                has_body = True
        path = scope["path"]
        if not self._is_known(host) and path not in PROBES:
            raise UnknownHost(
                f"unknown Host {host[:100].decode('latin-1')!r}: expected an address, a name without a dot or one of "
                "--allowed-hosts, to prevent DNS rebinding"
            )
        if scope["method"] in SAFE_METHODS:
            return
        if (site or origin) and not self._is_own(site, origin.lower(), host.lower()):
            raise ForeignOrigin(
                f"foreign origin {origin[:100].decode('latin-1')!r}: expected one of this gateway or of --cors-origins"
            )
        if has_body and path.startswith(CHANGING) and kind.partition(b";")[0].strip().lower() not in BODY_TYPES:
            raise UnknownContentType(
                f"invalid Content-Type {kind[:100].decode('latin-1')!r} for a change: expected application/json, as "
                "`curl --json` sends it, or application/x-ndjson"
            )

    def _is_own(self, site: bytes, origin: bytes, host: bytes) -> bool:
        """Returns whether the gateway's own page or an allowed page sent a request."""
        if origin in self._origins or b"*" in self._origins:
            return True
        if site:  # browsers since 2020 and 2023; a page cannot set it
            return site in OWN_SITE
        return urlsplit(origin.decode("latin-1")).netloc == host.decode("latin-1")


def is_known_host(host: bytes, allowed: Sequence[str]) -> bool:
    """Returns whether a request may be for this host: nobody else can own an address, or a name without a dot."""
    if not host or "*" in allowed:  # HTTP/1.0 has none
        return True
    text = host.decode("latin-1").lower()
    name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    name = name.removesuffix(".")
    if "." not in name and ":" not in name:
        return True
    if name in allowed or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
