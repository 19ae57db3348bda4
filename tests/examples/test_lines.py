"""What recorders write becomes lines, however it is cut up."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.bot.lines import Line, Reader

FORMATS = Path(__file__).parents[1] / "data" / "formats"


def lines(*chunks: bytes, head: bytes = b"") -> list[Line]:
    reader = Reader(head=head)
    return [line for chunk in chunks for line in reader.feed(chunk)] + list(reader.feed(b"", is_last=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blrec.xml", [(12.345, "来了来了"), (14.0, "开始 <3"), (915.0, "十五分钟以后")]),
        ("bililive-recorder.xml", [(12.345, "来了来了"), (13.345, "晚上好")]),
        (
            "recorder.jsonl",
            [(1610516217.493, "来了来了"), (1610516218.493, "晚上\u2028好"), (1610519999.493, "一小时以后")],
        ),
    ],
)
def test_recordings_are_read(name: str, expected: list[tuple[float, str]]) -> None:
    """Gifts, super chats and what is not whole are passed over; cut anywhere, even within characters, all the same."""
    content = (FORMATS / name).read_bytes()
    whole = lines(content)

    assert [(line.at_s, line.text) for line in whole] == expected
    assert lines(*[content[place : place + 1] for place in range(len(content))]) == whole
    assert lines(*[content[place : place + 7] for place in range(0, len(content), 7)]) == whole


def test_scripts_and_subtitles_of_a_video_are_none() -> None:
    """As the corpus reader judges."""
    kinds = [("1", "0", "danmaku"), ("7", "0", "script"), ("8", "0", "script"), ("1", "1", "subtitle")]
    content = "<i>" + "".join(f'<d p="1.5,{mode},25,0,0,{pool},a,1">{text}</d>' for mode, pool, text in kinds)

    assert lines(content.encode()) == [Line("danmaku", 1.5)]


def test_json_may_be_texts_or_objects() -> None:
    content = '{"text": "awsl", "time": 2}\n"草"\n{"gift": "辣条"}\n{"text": 3}\n{"text": "half", \n'

    assert lines(content.encode()) == [Line("awsl", 2), Line("草")]


def test_the_csv_of_a_video_is_read() -> None:
    """Its texts may hold commas, and some rows are pieces of scripts."""
    rows = "草,12.5,2019-05-01 12:00:00\n来了,来了,3,2019-05-01 12:00:01\r\n好听,4,2019-05-01 12:00:02\n"

    expected = [Line("草", 12.5), Line("来了,来了", 3.0), Line("好听", 4.0)]
    assert lines(f"{{var a,\n{rows}}}catch(e),\n".encode()) == expected


def test_plain_lines_have_no_time() -> None:
    assert lines("\ufeff草\r\n\nawsl < 3\n晚安".encode()) == [Line("草"), Line("awsl < 3"), Line("晚安")]


def test_who_begins_in_the_middle_needs_the_head() -> None:
    middle = b'oken</d><d p="3,1,25,0,0,0,a,1">whole</d>'

    assert lines(middle, head=b"\xef\xbb\xbf<?xml version='1.0'?><i>") == [Line("whole", 3)]
