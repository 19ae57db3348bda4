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
    Label,
    ObservedLine,
    ObserveResponse,
    RebuildProgress,
    SimilarMatch,
    SimilarResponse,
    TextError,
    Topic,
    TopicsResponse,
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
    "Label",
    "ObserveResponse",
    "ObservedLine",
    "RebuildProgress",
    "SimilarMatch",
    "SimilarResponse",
    "TextError",
    "Topic",
    "TopicsResponse",
]
