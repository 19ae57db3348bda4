"""Parses Bilibili's protobuf segments (`seg.so`), which have six minutes of a video's danmaku each.

Only the necessary fields are declared, so the hash of the writer is not even decoded. They are fields of
`bilibili.community.service.dm.v1.DmSegMobileReply`, numbered as in the player's own requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from service.recordings.base import MALFORMED, MALFORMED_ROW, MAX_VIDEO_S, SCRIPT, SUBTITLE, Row

MAX_BYTES = 64 << 20  # of a file, which is decoded at once; a segment has at most about 6,000 danmaku
FIELDS = (("progress", 2), ("mode", 3), ("content", 7), ("ctime", 8), ("pool", 11))


@cache
def _reply() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="danmaku_segment.proto", package="danmaku", syntax="proto3")
    element = file.message_type.add(name="Element")
    for name, number in FIELDS:
        kind = types.TYPE_STRING if name == "content" else types.TYPE_INT64
        element.field.add(name=name, number=number, type=kind, label=types.LABEL_OPTIONAL)
    reply = file.message_type.add(name="Reply")
    reply.field.add(
        name="elements", number=1, type=types.TYPE_MESSAGE, label=types.LABEL_REPEATED, type_name=".danmaku.Element"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("danmaku.Reply"))


def parse(content: bytes) -> list[Any] | None:
    """Returns the elements of a segment, or None if it is not one."""
    from google.protobuf.message import DecodeError

    try:
        elements = list(_reply().FromString(content).elements)
    except DecodeError:
        return None
    return elements if any(element.content for element in elements) else None


def rows(elements: list[Any]) -> Iterator[Row]:
    for element in elements:
        seconds = element.progress / 1000
        if element.mode in (7, 8, 9):
            yield Row(None, SCRIPT)
        elif element.pool in (1, 2):
            yield Row(None, SUBTITLE)
        elif abs(seconds) > MAX_VIDEO_S:
            yield MALFORMED_ROW
        else:
            yield Row(element.content, MALFORMED, seconds, float(element.ctime) or None)
