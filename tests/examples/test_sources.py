"""Where danmaku come from: files that grow and change, recordings at a speed, rooms."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bilibili_api.live import LiveDanmaku

from examples.bot.sources import Said, SourceError, Tail, open_source


async def of(source: AsyncIterator[Said], count: int) -> list[str]:
    texts: list[str] = []
    async with asyncio.timeout(60):
        async for said in source:
            texts.append(said.text)
            if len(texts) == count:
                break
    return texts


def all_of(tail: Tail) -> list[str]:
    """Until there is nothing more; the first call may only open another file."""
    texts, idle = [], 0
    while idle < 2:
        lines = tail.read()
        idle = 0 if lines else idle + 1
        texts += [line.text for line in lines]
    return texts


def test_a_file_is_followed_from_where_it_is(tmp_path: Path) -> None:
    """Half a line waits for its end; a file that takes the name is read whole, and so is one that is begun anew."""
    path = tmp_path / "danmaku.txt"
    path.write_text("before\n", encoding="utf-8")
    tail = Tail(path)
    assert all_of(tail) == []
    with path.open("a", encoding="utf-8") as file:
        file.write("草\n晚")
        file.flush()
        assert all_of(tail) == ["草"]
        file.write("安\n没完")
    assert all_of(tail) == ["晚安"]

    path.rename(tmp_path / "danmaku.1.txt")
    assert all_of(tail) == []
    path.write_text("another\n", encoding="utf-8")
    assert all_of(tail) == ["没完", "another"]
    path.write_text("anew\n", encoding="utf-8")
    assert all_of(tail) == ["anew"]
    tail.close()


async def test_a_recording_that_has_just_begun_is_followed(tmp_path: Path) -> None:
    """Nothing stands in it yet, so what it is shows later."""
    path = tmp_path / "room.xml"
    path.touch()
    source = await open_source(str(path), None)
    first = asyncio.ensure_future(anext(source))
    await asyncio.sleep(0)
    draft = tmp_path / "draft"
    draft.write_text('<?xml version="1.0"?>\n<i><d p="1,1,25,0,0,0,a,1">来了</d>', encoding="utf-8")
    os.replace(draft, path)
    async with asyncio.timeout(60):
        assert (await first).text == "来了"
        with path.open("a", encoding="utf-8") as file:
            file.write('<d p="2,1,25,0,0,0,a,2">草</d>')
        assert (await anext(source)).text == "草"


async def test_a_recording_is_replayed_in_its_order_at_a_speed(tmp_path: Path) -> None:
    """No line comes before it is due; that one is late does not move the next."""
    path = tmp_path / "chat.ndjson"
    path.write_text('{"text": "b", "time": 106}\n{"text": "a", "time": 100}\n{"text": "c", "time": 112}\n')
    said = [each async for each in await open_source(str(path), 60)]

    assert [(each.text, each.at_s) for each in said] == [("a", 100), ("b", 106), ("c", 112)]
    assert [round(each.came_s - said[0].came_s, 6) for each in said] == [0, 0.1, 0.2]


@pytest.mark.parametrize(
    ("source", "speed", "why"),
    [
        ("plain.txt", 60.0, "plain.txt: none of 1 danmaku has a time"),
        ("missing.txt", 60.0, "missing.txt cannot be read: No such file"),
        ("missing.txt", None, "missing.txt does not exist; expected a recording"),
        ("page.html", None, "page.html is a page of HTML"),
        ("picture.png", None, "picture.png is not text"),
        ("picture.png", 60.0, "picture.png is not text"),
        ("room:mea", None, "invalid room: mea"),
    ],
)
async def test_a_source_that_gives_nothing_says_why(tmp_path: Path, source: str, speed: float | None, why: str) -> None:
    (tmp_path / "plain.txt").write_text("草\n", encoding="utf-8")
    (tmp_path / "page.html").write_text("<!doctype html><p>x</p>", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01")
    source = source if source.startswith("room:") else str(tmp_path / source)

    with pytest.raises(SourceError, match=why):
        await anext(await open_source(source, speed))


async def test_a_room_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The genuine client takes frames apart as they come over the wire; only its connection is ours. When it ends, the
    bot is told.
    """

    def frame(message: object) -> bytes:
        body = json.dumps(message).encode()
        return struct.pack(">IHHII", 16 + len(body), 16, 0, 5, 1) + body

    async def connect(self: LiveDanmaku) -> None:
        for message in (
            {"cmd": "DANMU_MSG", "info": [[0, 1, 25], "阿夸", [1, "someone"]]},
            {"cmd": "SEND_GIFT", "data": {"giftName": "辣条"}},
            {"cmd": "DANMU_MSG:4:0:2:2:2:0", "info": [[0, 1, 25], "awsl", [1, "someone"]]},
        ):
            await self._LiveDanmaku__handle_data(frame(message))
        self.err_reason = "no host left"

    monkeypatch.setattr(LiveDanmaku, "connect", connect)
    source = await open_source("room:21452505", None)

    assert await of(source, 2) == ["阿夸", "awsl"]
    with pytest.raises(SourceError, match="room:21452505 has ended: no host left"):
        await of(await open_source("room:21452505", None), 3)
