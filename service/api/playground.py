"""GET /: the playground, a page to try the service in. Its files are those of service/web, as they are.

They need no build and no other host: the plotting library lies beside them, and the page's own policy lets a browser
fetch from nowhere else and run nothing that is written into the page. The page uses the routes that everybody has, but
for one of its own: `POST /playground/embed` also tells whether the model had to work, which others do not pay for.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from service.api.responses import PlainRoute, json_response
from service.api.schemas import EmbedRequest
from service.api.state import Caller, state_of
from service.api.vectors import shown
from service.errors import NotFound

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
PAGE = "index.html"
LIBRARIES = "vendor/"  # whose names hold their versions
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

router = APIRouter(route_class=PlainRoute, include_in_schema=False)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class File:
    body: bytes
    packed: bytes  # with gzip
    headers: dict[str, str]


@cache
def web() -> dict[str, File]:
    """What may be asked for, by name."""
    return dict(_below(files("service").joinpath("web"), ""))


def _below(directory: Traversable, prefix: str) -> list[tuple[str, File]]:
    found: list[tuple[str, File]] = []
    for entry in directory.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{prefix}{entry.name}/")
        elif kind := TYPES.get(entry.name.rpartition(".")[2]):
            found.append((prefix + entry.name, _file(entry.read_bytes(), kind, prefix == LIBRARIES)))
    return found


def _file(body: bytes, kind: str, is_library: bool) -> File:
    headers = {
        "Content-Type": f"{kind}; charset=utf-8",
        # Weak: it stands for the file with gzip and without.
        "ETag": f'W/"{hashlib.sha256(body).hexdigest()[:16]}"',
        "Cache-Control": "public, max-age=31536000, immutable"
        if is_library
        else "no-cache",  # i.e. ask whether it is new
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if kind == TYPES["html"]:
        headers |= {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    return File(body, gzip.compress(body, 9, mtime=0), headers)


@router.get("/")
async def page(request: Request) -> Response:
    return _sent(request, web()[PAGE])


@router.get("/static/{file:path}")
async def file(request: Request) -> Response:
    name = request.path_params["file"]
    if name == PAGE or name not in web():
        raise NotFound(f"the playground has no file {name[:80]!r}")
    return _sent(request, web()[name])


def _sent(request: Request, file: File) -> Response:
    if file.headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=file.headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers=file.headers | {"Content-Encoding": "gzip"})
    return Response(file.body, headers=file.headers)


@router.post("/playground/embed")
async def embed(request: Request) -> Response:
    """As POST /embed, of few texts; and how long it took, and whether the encoder had anything to do for it."""
    caller, state = Caller(request), state_of(request)
    body = await EmbedRequest.of(request)
    state.accept_texts(len(body.texts))
    is_cached = True

    async def wait(work: Coroutine[Any, Any, T]) -> T:  # which is only done for what is not cached
        nonlocal is_cached
        is_cached = False
        return await caller.wait(work)

    started = time.perf_counter()
    embeddings = await state.embedder.embed(body.texts, wait)
    seconds = time.perf_counter() - started
    return json_response(
        {
            "model": embeddings.model.name,
            "fingerprint": embeddings.model.fingerprint,
            "embeddings": shown(embeddings, normalize=body.normalize),
            "errors": embeddings.errors,
            "is_cached": is_cached,
            "seconds": seconds,
        }
    )
