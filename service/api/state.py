"""What a route may use: assembled in `app.py`, found through the request."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fastapi import Request

from service.batcher import Batcher
from service.embedder import Embedder
from service.errors import ClientGone, TooLarge
from service.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class State:
    settings: Settings
    embedder: Embedder
    batcher: Batcher


def state_of(request: Request) -> State:
    return cast(State, request.app.state.danmaku)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled, and ClientGone raised, as soon as the caller hangs up.

    To be called when the body has been read: what comes next from the caller can only be the end of the connection.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the caller hung up before the answer")
    finally:
        for unfinished in (task, gone):
            unfinished.cancel()
        await asyncio.wait((task, gone))


def accept_texts(state: State, count: int) -> None:
    """Raises TooLarge if that many texts are more than one request may bring."""
    limit = state.settings.max_request_texts
    if count > limit:
        raise TooLarge(f"{count} texts in one request; at most {limit} are taken, so send them in several")
