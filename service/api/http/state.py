"""The objects that routes share; `app.py` creates them, and routes find them through the request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from fastapi import Request

from service.accounts import Accounts, charge_texts
from service.chat.sameness import Judge
from service.chat.topics import Rooms
from service.collections.collections import Collections
from service.collections.map_cache import Maps
from service.embedder import Embedder
from service.errors import DanmakuError, TooLarge
from service.heads.heads import Heads
from service.log import current_request
from service.memory import SMALL_BYTES, hold_bytes
from service.metrics import Metrics
from service.settings import Settings
from service.status import Status

TEXT_BYTES = 256  # objects around a text


@dataclass
class State:
    settings: Settings
    metrics: Metrics
    embedder: Embedder
    status: Status
    store: Collections | DanmakuError  # the error to answer if there are no collections
    judge: Judge  # for the vectors of this gateway
    accounts: Accounts
    heads: Heads
    maps: Maps = field(default_factory=Maps)
    rooms: Rooms = field(default_factory=Rooms)
    listeners: int = 0  # to topics
    encode_requests: int = 0  # requests to /encode that are not answered yet
    is_stopping: bool = False

    @property
    def obstacle(self) -> str | None:
        """The reason why texts sent now would not be embedded, or None."""
        return "the service is stopping" if self.is_stopping else self.embedder.obstacle

    @property
    def collections(self) -> Collections:
        """Raises NotFound if this gateway has no collections."""
        if isinstance(self.store, DanmakuError):
            raise type(self.store)(str(self.store))  # a new one, because raising adds a traceback
        return self.store

    def accept_texts(self, count: int) -> None:
        """Notes the number of texts, charges the key for them, and counts the memory for them and their vectors.

        Raises TooLarge if one request may not bring that many, MemoryFull, and EncoderUnavailable if no model is known.
        """
        if record := current_request.get():
            record.texts = count
        limit = self.settings.max_request_texts
        if count > limit:
            raise TooLarge(f"too many texts: {count} in one request; expected at most {limit}, so split the list")
        charge_texts(count)
        if (needed := count * (4 * self.embedder.model.dim + TEXT_BYTES)) > SMALL_BYTES:
            hold_bytes(needed)


def get_state(request: Request) -> State:
    return cast(State, request.app.state.danmaku)
