"""Files that go into a collection: what is an item, what is a reason, and which files of a folder are read."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from service.commands.collections.files import MAX_LINE_BYTES, files_in, rows_of
from service.errors import ConfigurationError


def read(name: str, content: str | bytes) -> list[tuple[int, Any]]:
    """Line and item of each row; a row without an item has its reason in its place."""
    data = content.encode() if isinstance(content, str) else content
    return [(row.line, row.error if row.item is None else row.item) for row in rows_of(Path(name), BytesIO(data))]


def test_lines_are_texts_as_they_stand() -> None:
    """A line ends at its newline and nowhere else."""
    assert read("a.txt", '草,1,2\r\n {"text": 1}\n\u2028') == [(1, "草,1,2"), (2, ' {"text": 1}'), (3, "\u2028")]


def test_ndjson_is_taken_as_the_gateway_takes_it() -> None:
    rows = read("a.ndjson", '"草"\n{"text": "晚安", "metadata": {"room": 3}, "ttl_s": 60}\n{"text": \n')

    assert rows[:2] == [(1, "草"), (2, {"text": "晚安", "metadata": {"room": 3}, "ttl_s": 60})]
    assert rows[2][0] == 3 and "unexpected" in rows[2][1]


def test_recorded_danmaku_may_have_commas() -> None:
    """Their seconds and times become metadata; what is no danmaku costs nobody the rest."""
    rows = read("1.csv", "草,好,12.5,2019-05-01 20:00:00\nvar x = 1;\n晚安,3,2019-05-01 20:00:01\n")

    assert rows == [
        (1, {"text": "草,好", "metadata": {"seconds": 12.5, "posted_at": "2019-05-01 20:00:00"}}),
        (2, "expected text,seconds,posted at; or a header that names a column `text`"),
        (3, {"text": "晚安", "metadata": {"seconds": 3.0, "posted_at": "2019-05-01 20:00:01"}}),
    ]


def test_a_table_has_a_header() -> None:
    """Known columns are fields of the item; the others are metadata, as numbers where they are written as such."""
    table = '\ufeffRoom,Text,id,ttl_s,code\n3,"草,\n""好""",,60,007\n,晚安,x,,\n1,2\n'

    assert read("a.csv", table) == [
        (2, {"text": '草,\n"好"', "ttl_s": 60, "metadata": {"room": 3, "code": "007"}}),
        (4, {"text": "晚安", "id": "x"}),
        (5, "2 columns, where the header has 5"),
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.ndjson", "a.csv", "table.csv"])
def test_what_is_no_utf8_costs_nobody_the_rest(name: str) -> None:
    good = {"a.txt": "草", "a.ndjson": '"草"', "a.csv": "草,1,2019", "table.csv": "草"}[name].encode()
    head = b"text\n" if name == "table.csv" else b""
    rows = read(name, head + b"\xff\xfe\n" + good + b"\n")

    assert isinstance(rows[0][1], str) and rows[0][1] != "草"
    assert rows[1][1] == "草" or rows[1][1]["text"] == "草"


def test_a_line_that_is_no_danmaku_ends_it() -> None:
    with pytest.raises(ConfigurationError, match="a.txt: line 2 is longer than 1048576 bytes"):
        read("a.txt", b"x\n" + b"x" * (MAX_LINE_BYTES + 1))


def test_of_a_folder_the_files_of_danmaku_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b/2.csv", "b/1.CSV", "a.txt", "notes.md", "c.jsonl", "c.ndjson"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    found = files_in([tmp_path / "notes.md", tmp_path])
    assert [path.name for path in found] == ["notes.md", "a.txt", "1.CSV", "2.csv", "c.jsonl", "c.ndjson"]


def test_a_path_without_danmaku_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere does not exist"):
        files_in([tmp_path / "nowhere"])
    with pytest.raises(ConfigurationError, match=r"holds no file that ends in .txt, .csv, .ndjson, .jsonl"):
        files_in([tmp_path])
