"""Writes danmaku as recording tools do, in each format, for tests to read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[import-untyped]

Danmaku = tuple[str, float]  # text, second of the video
POSTED = 1_600_000_000
DATE = "2019-05-12 13:31:10"


def xml(danmaku: Sequence[Danmaku]) -> bytes:
    rows = "".join(
        f'<d p="{seconds},1,25,16777215,{POSTED + 86400 * number},0,a1b2c3d4,{number}">{escape(text)}</d>'
        for number, (text, seconds) in enumerate(danmaku)
    )
    return f'<?xml version="1.0" encoding="UTF-8"?><i><chatid>1</chatid>{rows}</i>'.encode()


def xml_2_0(danmaku: Sequence[Danmaku]) -> bytes:
    rows = "".join(
        f'<d p="{5 * 10**15 + number},0,{round(seconds * 1000)},1,25,16777215,{POSTED},0,a1b2c3d4">{escape(text)}</d>'
        for number, (text, seconds) in enumerate(danmaku)
    )
    return f'<?xml version="2.0" encoding="UTF-8"?><i><oid>1</oid>{rows}</i>'.encode()


def dandanplay_xml(danmaku: Sequence[Danmaku]) -> bytes:
    rows = "".join(f'<d p="{seconds},1,16777215,u">{escape(text)}</d>' for text, seconds in danmaku)
    return f"<i>{rows}</i>".encode()


def unclosed_xml(danmaku: Sequence[Danmaku]) -> bytes:
    return xml(danmaku).removesuffix(b"</i>")


def json_lines(danmaku: Sequence[Danmaku]) -> bytes:
    rows = ({"text": text, "time": seconds, "uname": "某人甲"} for text, seconds in danmaku)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def json_array(danmaku: Sequence[Danmaku]) -> bytes:
    rows = [{"content": text, "time": seconds, "name": "某人甲", "msg_type": "danmaku"} for text, seconds in danmaku]
    return json.dumps(rows, indent=2).encode()


def dandanplay_json(danmaku: Sequence[Danmaku]) -> bytes:
    rows: list[dict[str, Any]] = [{"cid": 1, "p": f"{seconds},1,16777215,u", "m": text} for text, seconds in danmaku]
    return json.dumps({"count": len(rows), "comments": rows}, ensure_ascii=False).encode()


def bilibili_json(danmaku: Sequence[Danmaku]) -> bytes:
    rows = [
        {"id": 1, "progress": round(seconds * 1000), "mode": 1, "midHash": "a1b2c3d4", "content": text, "ctime": POSTED}
        for text, seconds in danmaku
    ]
    return json.dumps({"elems": rows}, ensure_ascii=False).encode()


def live_chat(danmaku: Sequence[Danmaku]) -> bytes:
    def row(text: str, seconds: float) -> dict[str, Any]:
        renderer = {"message": {"runs": [{"text": text}]}, "authorName": {"simpleText": "某人甲"}}
        action = {"addChatItemAction": {"item": {"liveChatTextMessageRenderer": renderer}}}
        return {"replayChatItemAction": {"actions": [action]}, "videoOffsetTimeMsec": str(round(seconds * 1000))}

    return "".join(json.dumps(row(*each)) + "\n" for each in danmaku).encode()


def quoted_csv(danmaku: Sequence[Danmaku], **options: Any) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", **options).writerows([text, seconds, DATE] for text, seconds in danmaku)
    return file.getvalue().encode()


def all_quoted_csv(danmaku: Sequence[Danmaku]) -> bytes:
    return quoted_csv(danmaku, quoting=csv.QUOTE_ALL)


def table(danmaku: Sequence[Danmaku]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(["videotime", "mode", "UID", "unixtime", "content"])
    writer.writerows([seconds, 1, "a1b2c3d4", POSTED, text] for text, seconds in danmaku)
    return b"\xef\xbb\xbf" + file.getvalue().encode()


def utf16_table(danmaku: Sequence[Danmaku]) -> bytes:
    return table(danmaku).decode("utf-8-sig").encode("utf-16")


def ass(danmaku: Sequence[Danmaku], style: str = "R2L") -> bytes:
    def clock(seconds: float) -> str:
        hundredths = round(seconds * 100)
        return f"{hundredths // 360000}:{hundredths // 6000 % 60:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"

    rows = "".join(
        f"Dialogue: 0,{clock(seconds)},{clock(seconds + 8)},{style},,0,0,0,,{{\\move(1,2,3,4)}}{text}\n"
        for text, seconds in danmaku
    )
    columns = "Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text"
    return f"[Script Info]\n[Events]\nFormat: {columns}\n{rows}".encode()


def segment(danmaku: Sequence[Danmaku]) -> bytes:
    def varint(number: int, value: int) -> bytes:
        return bytes(_VarintBytes(number << 3)) + bytes(_VarintBytes(value))

    def field(number: int, value: bytes) -> bytes:
        return bytes(_VarintBytes(number << 3 | 2)) + bytes(_VarintBytes(len(value))) + value

    return b"".join(
        field(
            1,
            varint(1, 5)
            + varint(2, round(seconds * 1000))
            + varint(3, 1)
            + field(6, b"a1b2c3d4")
            + field(7, text.encode())
            + varint(8, POSTED),
        )
        for text, seconds in danmaku
    )


# suffix of the file, and its writer
WRITERS: dict[str, tuple[str, Callable[[Sequence[Danmaku]], bytes]]] = {
    "xml": (".xml", xml),
    "xml 2.0": (".xml", xml_2_0),
    "dandanplay xml": (".xml", dandanplay_xml),
    "unclosed xml": (".xml", unclosed_xml),
    "json lines": (".jsonl", json_lines),
    "json array": (".json", json_array),
    "dandanplay json": (".json", dandanplay_json),
    "bilibili json": (".json", bilibili_json),
    "live chat": (".json", live_chat),
    "quoted csv": (".csv", quoted_csv),
    "csv with all quoted": (".csv", all_quoted_csv),
    "table": (".csv", table),
    "utf-16 table": (".csv", utf16_table),
    "ass": (".ass", ass),
    "segment": (".so", segment),
}
