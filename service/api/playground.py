"""GET /: the playground, a page to try the service. It consists of the files in service/web.

They need no build and no other host: the plotting library is among them, and the page's policy forbids a browser to
fetch anything from elsewhere or to run scripts written into the page. The page uses the public routes and one of its
own: `POST /playground/embed` also returns the time and whether all texts came from the cache.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from service.api.caller import Caller
from service.api.responses import PlainRoute
from service.api.schemas import EmbedRequest
from service.api.state import get_state
from service.api.vectors import vectors_response
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
LIBRARIES = "vendor/"  # their names contain their versions
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

router = APIRouter(route_class=PlainRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class File:
    body: bytes
    packed: bytes  # gzip
    headers: dict[str, str]


@cache
def read_web() -> dict[str, File]:
    """Returns all files of the playground by name."""
    return dict(_read_directory(files("service").joinpath("web"), ""))


def _read_directory(directory: Traversable, prefix: str) -> list[tuple[str, File]]:
    found: list[tuple[str, File]] = []
    for entry in directory.iterdir():
        if entry.is_dir():
            found += _read_directory(entry, f"{prefix}{entry.name}/")
        elif kind := TYPES.get(entry.name.rpartition(".")[2]):
            found.append((prefix + entry.name, _make_file(entry.read_bytes(), kind, prefix == LIBRARIES)))
    return found


def _make_file(body: bytes, kind: str, is_library: bool) -> File:
    headers = {
        "Content-Type": f"{kind}; charset=utf-8",
        # Weak: the same for the file with and without gzip.
        "ETag": f'W/"{hashlib.sha256(body).hexdigest()[:16]}"',
        # no-cache: a browser has to ask whether the file has changed
        "Cache-Control": "public, max-age=31536000, immutable" if is_library else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if kind == TYPES["html"]:
        headers |= {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    return File(body, gzip.compress(body, 9, mtime=0), headers)


@router.get("/")
async def page(request: Request) -> Response:
    return _send_file(request, read_web()[PAGE])


@router.get("/static/{file:path}")
async def file(request: Request) -> Response:
    name = request.path_params["file"]
    if name == PAGE or name not in read_web():
        raise NotFound(f"no file {name[:80]!r} in the playground")
    return _send_file(request, read_web()[name])


def _send_file(request: Request, file: File) -> Response:
    if file.headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=file.headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers=file.headers | {"Content-Encoding": "gzip"})
    return Response(file.body, headers=file.headers)


@router.post("/playground/embed")
async def embed(request: Request) -> Response:
    """Returns the vectors of POST /embed, the time it took, and whether all of them came from the cache."""
    caller, state = Caller(request), get_state(request)
    body = await EmbedRequest.read(request)
    state.accept_texts(len(body.texts))
    started = time.perf_counter()
    embeddings = await caller.wait(state.embedder.embed(body.texts))
    seconds = time.perf_counter() - started
    return vectors_response(
        {"model": embeddings.model.name, "fingerprint": embeddings.model.fingerprint},
        "embeddings",
        embeddings,
        {"errors": embeddings.errors, "is_cached": not embeddings.encoded, "seconds": seconds},
        normalize=body.normalize,
    )
