"""GET / and GET /live: serve the playground and the overlay, which are files in service/web.

They need no build and no other host: the plotting library is included, and the page's policy forbids the browser to
fetch anything from elsewhere or to run inline scripts. The page uses the public routes and two of its own: `POST
/playground/embed` also returns the time and whether all texts came from the cache, and `GET /playground/chat` replays
an example chat in the format of `GET /collections/{name}/topics`.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import re
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import numpy as np
from fastapi import APIRouter, Request, Response

from service.api.collections.observe import describe_room, stream_events
from service.api.http.caller import Caller
from service.api.http.responses import PlainRoute
from service.api.http.schemas import EmbedRequest
from service.api.http.state import State, get_state
from service.api.vectors import vectors_response
from service.chat.topics import Topics
from service.errors import NotFound
from service.vectors import unit

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "frame-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
PAGE, LIVE = "index.html", "live.html"
LIBRARIES = "vendor/"  # their names contain their versions
REPLAY_SPEED = 10.0
REPLAY_EVERY_S = 0.5
REPLAY_PAUSE_S = 4.0  # at the end, to be read
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
            found.append((prefix + entry.name, _make_file(entry.name, entry.read_bytes(), kind, prefix == LIBRARIES)))
    return found


def _make_file(name: str, body: bytes, kind: str, is_library: bool) -> File:
    headers = {
        "Content-Type": f"{kind}; charset=utf-8",
        # Weak: the same for the file with and without gzip.
        "ETag": f'W/"{hashlib.sha256(body).hexdigest()[:16]}"',
        # no-cache: a browser has to ask whether the file has changed
        "Cache-Control": "public, max-age=31536000, immutable" if is_library else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if kind == TYPES["html"]:
        policy = POLICY | (_allow_overlay(body) if name == LIVE else {})
        told = "; ".join(f"{name} {sources}" for name, sources in policy.items())
        headers |= {"Content-Security-Policy": told, "Referrer-Policy": "no-referrer"}
    return File(body, gzip.compress(body, 9, mtime=0), headers)


def _allow_overlay(body: bytes) -> dict[str, str]:
    """Returns the overlay's differences in policy: its script is inline, and the playground may frame it.

    Any style is allowed, because OBS inserts its user's CSS into the page.
    """
    (script,) = re.findall(rb"<script>(.*?)</script>", body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    return {"script-src": f"'sha256-{digest}'", "style-src": "'unsafe-inline'", "frame-ancestors": "'self'"}


@router.get("/")
async def page(request: Request) -> Response:
    return _send_file(request, read_web()[PAGE])


@router.get("/live")
async def live(request: Request) -> Response:
    return _send_file(request, read_web()[LIVE])


@router.get("/static/{file:path}")
async def file(request: Request) -> Response:
    name = request.path_params["file"]
    if name in (PAGE, LIVE) or name not in read_web():
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


@router.get("/playground/chat")
async def chat(request: Request) -> Response:
    """Replays the example chat, over and over, and sends its topics as events. Nothing is stored."""
    caller, state = Caller(request), get_state(request)
    lines = read_example()
    embeddings = await caller.wait(state.embedder.embed([text for _, text in lines]))
    return stream_events(state, _replay(state, lines, unit(embeddings.vectors), embeddings.model.fingerprint))


@cache
def read_example() -> tuple[tuple[float, str], ...]:
    """Returns times, seconds, and texts of the example chat."""
    rows = files("service").joinpath("chat", "example.ndjson").read_text(encoding="utf-8").splitlines()
    return tuple((row["time"], row["text"]) for row in map(json.loads, rows))


async def _replay(
    state: State, lines: Sequence[tuple[float, str]], vectors: np.ndarray, fingerprint: str
) -> AsyncGenerator[dict[str, object] | None, None]:
    while True:
        topics = Topics(state.judge, vectors.shape[1], fingerprint)
        started, done = time.monotonic(), 0
        while (now := (time.monotonic() - started) * REPLAY_SPEED) < lines[-1][0] + REPLAY_PAUSE_S * REPLAY_SPEED:
            await asyncio.sleep(REPLAY_EVERY_S)
            while done < len(lines) and lines[done][0] <= now:
                at, text = lines[done]
                if not np.isnan(vectors[done, 0]):
                    topics.add(text, at, vectors[done])
                done += 1
            yield describe_room(topics)
