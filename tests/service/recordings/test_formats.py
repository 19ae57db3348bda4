"""The formats: texts are read completely, nothing about their writers is, and every row is accounted for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from reading import JSON, lines, read, written

from service.recordings import FORMATS, Options, RecordingError, Row, open_recording
from service.recordings.base import MAX_ROW
from service.recordings.documents import MAX_LINES, Tally, documents

SAMPLES = Path(__file__).parents[2] / "data" / "formats"
PEOPLE = ("90000001", "90000002", "90000003", "a16fe0dd", "b16fe0dd", "e16fe0dd", "阿猫", "阿狗", "阿鸟", "某主播")

# file: format, documents, what else was in it
EXPECTED: dict[str, tuple[str, dict[str, list[str]], dict[str, int]]] = {
    "video.csv": ("csv", {"formats/video": ["来了来了", "草,真的草", "晚安，各位"]}, {"malformed row": 3}),
    "1000/2019-5-12.txt": (
        "day",
        {"1000/2019-5-12": ["来了来了", "12:30开播", "晚上好：主播"], "1000/2019-5-12#2": ["第二场"]},
        {"count of viewers": 3, "malformed row": 1},
    ),
    "1000/2019-6-1.txt": (
        "day",
        {"1000/2019-6-1": ["从头开始: 走一遍", "时间12:30", "换了新版本"], "1000/2019-6-1#2": ["晚安"]},
        {"count of viewers": 3, "list of writers": 2, "malformed row": 1},
    ),
    "1000/2021-1-13.txt": (
        "day",
        {"1000/2021-1-13": ["！是会动的", "比分 3:2", "http://example.org"], "1000/2021-1-13#2": ["V2"]},
        {"count of viewers": 5, "list of writers": 2},
    ),
    "1000/2021-1-14.txt": ("day", {"1000/2021-1-14": ["没有关机", "结尾不见了: 真的"]}, {}),
    "vod.xml": (
        "xml",
        {"formats/vod": ["第一 & 打卡", "前方高能", "从结尾回来看这里"]},
        {"script (mode 7, 8 or 9)": 3, "subtitle or script (pool 1 or 2)": 1},
    ),
    "blrec.xml": (
        "xml",
        {"formats/blrec": ["来了来了", "开始 <3"], "formats/blrec#2": ["十五分钟以后"]},
        {"gift": 2, "super chat": 1},
    ),
    "bililive-recorder.xml": (
        "xml",
        {"formats/bililive-recorder": ["来了来了", "晚上好"]},
        {"gift": 2, "super chat": 1, "cut off at the end of the file": 1},
    ),
    "biliup.xml": (
        "xml",
        {
            "formats/biliup": ["来了来了", "控制字符和引用", "坏了 & <没有转义", "还在"],
            "formats/biliup#2": ["二十分钟以后"],
        },
        {"super chat or gift": 1, "other message": 1},
    ),
    "danmaku-render.ass": (
        "ass",
        {"formats/danmaku-render": ["来了, 来了", "{草} 生: 了"], "formats/danmaku-render#2": ["一小时了"]},
        {"style message_box": 1},
    ),
    "bililive-go.ass": (
        "ass",
        {"formats/bililive-go": ["来了来了", "比分: 3:2"]},
        {"style Gift": 1, "style SC": 1, "malformed row": 1},
    ),
    "recorder.jsonl": (
        "jsonl",
        {"formats/recorder": ["来了来了", "晚上\u2028好"], "formats/recorder#2": ["一小时以后"]},
        {"malformed row": 2},
    ),
    "danmaku_text_pure.txt": (
        "text",
        {"formats/danmaku_text_pure": ["来了来了", "晚上好"], "formats/danmaku_text_pure#2": ["第二场"]},
        {},
    ),
}


def test_every_sample_is_expected_and_every_format_has_one() -> None:
    samples = {path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*") if path.is_file()}
    assert samples == set(EXPECTED)
    assert {kind for kind, _, _ in EXPECTED.values()} == set(FORMATS) - {"json", "segment"}  # test_kinds.py


@pytest.mark.parametrize("sample", EXPECTED)
class TestEverySample:
    def test_is_recognised_and_gives_its_documents_and_drops(self, sample: str) -> None:
        kind, expected, dropped = EXPECTED[sample]
        reader = open_recording(SAMPLES / sample).format
        found, tally = read(SAMPLES / sample)
        assert reader == kind
        assert {document.id: document.lines for document in found} == expected
        assert tally.dropped == dropped

    def test_accounts_for_every_row(self, sample: str) -> None:
        found, tally = read(SAMPLES / sample)
        assert tally.rows == sum(len(document.lines) for document in found) + tally.dropped.total()

    def test_reveals_nothing_about_people(self, sample: str) -> None:
        """Neither documents nor the reasons in a report do."""
        found, tally = read(SAMPLES / sample)
        told = repr(found) + repr(tally)
        assert [person for person in PEOPLE if person in told] == []

    def test_reads_the_same_under_a_name_without_suffix_if_its_format_is_named(
        self, sample: str, tmp_path: Path
    ) -> None:
        kind, expected, _ = EXPECTED[sample]
        shutil.copy(SAMPLES / sample, tmp_path / "renamed")
        assert [doc.lines for doc in read(tmp_path / "renamed", kind=kind)[0]] == [*expected.values()]

    def test_reads_the_same_with_line_ends_and_byte_order_mark_of_windows(self, sample: str, tmp_path: Path) -> None:
        kind, expected, dropped = EXPECTED[sample]
        content = (SAMPLES / sample).read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\n", b"\r\n")
        path = written(tmp_path / sample, b"\xef\xbb\xbf" + content)
        found, tally = read(path)
        assert open_recording(path).format == kind
        assert [doc.lines for doc in found] == [*expected.values()]
        assert tally.dropped == dropped

    def test_an_empty_file_has_no_documents(self, sample: str, tmp_path: Path) -> None:
        assert read(written(tmp_path / sample, b""))[0] == []

    def test_a_truncated_file_is_read_up_to_its_end(self, sample: str, tmp_path: Path) -> None:
        """A recorder may have crashed or a copy stopped; what came before is read and accounted for."""
        kind, expected, _ = EXPECTED[sample]
        content = (SAMPLES / sample).read_bytes()
        whole = {line for texts in expected.values() for line in texts}
        for end in range(0, len(content), 97):
            found, tally = read(written(tmp_path / sample, content[:end]), kind=kind)
            kept = [line for document in found for line in document.lines]
            assert tally.rows == len(kept) + tally.dropped.total()
            assert len(set(kept) - whole) <= 1  # the line in which it was cut


def test_a_file_of_no_known_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="video.flv is not text"):
        open_recording(written(tmp_path / "video.flv", b"FLV\x01\x05\x00\x00\x00\x09"))


@pytest.mark.parametrize("sample", ["video.csv", "vod.xml", "danmaku-render.ass", "recorder.jsonl"])
def test_content_decides_before_the_suffix(sample: str, tmp_path: Path) -> None:
    content = (SAMPLES / sample).read_text(encoding="utf-8").replace("fillColor", "草,1,2019-01-01 00:00:00\n")
    assert open_recording(written(tmp_path / "export.txt", content)).format == EXPECTED[sample][0]


def test_a_danmaku_that_looks_like_another_format_is_text(tmp_path: Path) -> None:
    text = '{"text": "a"}\n<i>\n草,1,2019-01-01 00:00:00\n[Script Info]\n晚安\n晚安\n晚安\n晚安\n'
    assert open_recording(written(tmp_path / "t.txt", text)).format == "text"


def test_a_new_line_is_the_only_end_of_a_row(tmp_path: Path) -> None:
    """Viewers paste Unicode's other separators."""
    exotic = "分\u2028行\x85\x0b\x1c然\u2029后"
    assert lines(tmp_path / "a.csv", f"{exotic},1,2019-01-01 00:00:00\n") == [exotic]
    assert lines(tmp_path / "a.txt", f"{exotic}\n") == [exotic]
    assert lines(tmp_path / "b.txt", f"TIME1:0ONLINE1\n1610516217493:1:{exotic}\n") == [exotic]


def test_an_endless_row_is_dropped_without_being_buffered(tmp_path: Path) -> None:
    found, tally = read(written(tmp_path / "a.txt", "草\n" + "长" * MAX_ROW + "\n晚安\n"))
    assert found[0].lines == ["草", "晚安"]
    assert tally.dropped == {"longer than a MiB": 1}


def test_a_document_has_a_maximal_length() -> None:
    """Its parts belong to one source, and so to one side of the split."""
    found = list(documents("a", [Row("草")] * (2 * MAX_LINES + 1), JSON, Tally()))
    assert [(doc.id, len(doc.lines), doc.source) for doc in found] == [
        ("a", MAX_LINES, "a"),
        ("a#2", MAX_LINES, "a"),
        ("a#3", 1, "a"),
    ]


def test_documents_are_read_lazily() -> None:
    """A reader that reads ahead raises here."""

    def rows() -> object:
        yield Row("草", document="1")
        yield Row("好", document="2")
        raise AssertionError("read on")

    assert next(documents("a", rows(), JSON, Tally())).lines == ["草"]  # type: ignore[arg-type]


def test_a_gap_must_be_positive() -> None:
    with pytest.raises(ValueError, match="invalid session_gap_s: 0; expected more than 0"):
        Options(session_gap_s=0)
