"""A client for a danmaku embedding gateway: lists of danmaku in, vectors out."""

from danmaku_client.client import AsyncClient, Client
from danmaku_client.responses import (
    Added,
    Collection,
    Embedded,
    GatewayError,
    Info,
    Item,
    Match,
    Page,
    Rebuilding,
    Similar,
    TextError,
)

__all__ = [
    "Added",
    "AsyncClient",
    "Client",
    "Collection",
    "Embedded",
    "GatewayError",
    "Info",
    "Item",
    "Match",
    "Page",
    "Rebuilding",
    "Similar",
    "TextError",
]
