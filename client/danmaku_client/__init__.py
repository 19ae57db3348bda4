"""A client for a danmaku embedding gateway: lists of danmaku in, vectors out."""

from danmaku_client.client import AsyncClient, Client
from danmaku_client.responses import (
    AddResponse,
    CollectionDescription,
    CollectionItem,
    CollectionPage,
    EmbedResponse,
    GatewayError,
    GatewayInfo,
    RebuildProgress,
    SimilarMatch,
    SimilarResponse,
    TextError,
)

__all__ = [
    "AddResponse",
    "AsyncClient",
    "Client",
    "CollectionDescription",
    "CollectionItem",
    "CollectionPage",
    "EmbedResponse",
    "GatewayError",
    "GatewayInfo",
    "RebuildProgress",
    "SimilarMatch",
    "SimilarResponse",
    "TextError",
]
