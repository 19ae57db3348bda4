"""What a route may use: assembled in `app.py`, found through the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from service.batcher import Batcher
from service.embedder import Embedder
from service.errors import TooLarge
from service.settings import Settings


@dataclass(frozen=True)
class State:
    settings: Settings
    embedder: Embedder
    batcher: Batcher


def state_of(request: Request) -> State:
    return cast(State, request.app.state.danmaku)


def accept_texts(state: State, count: int) -> None:
    """Raises TooLarge if that many texts are more than one request may bring."""
    limit = state.settings.max_request_texts
    if count > limit:
        raise TooLarge(f"{count} texts in one request; at most {limit} are taken, so send them in several")
