"""The formats: what people wrote arrives, nothing about them does, and every row is accounted for."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from training.readers import FORMATS, reader_of
from training.readers.base import MAX_LINES, MAX_ROW_BYTES, Document, ReaderSettings, Row, Tally, documents, name_of

SAMPLES = Path(__file__).parents[1] / "data" / "formats"
PEOPLE = ("90000001", "90000002", "90000003", "a16fe0dd", "b16fe0dd", "e16fe0dd", "阿猫", "阿狗", "阿鸟", "某主播")
JSON = ReaderSettings(time_field="ts")

# file: format, documents, what else was in it
EXPECTED: dict[str, tuple[str, dict[str, list[str]], dict[str, int]]] = {
    "video.csv": ("csv", {"video": ["来了来了", "草,真的草", "晚安，各位"]}, {"malformed row": 3}),
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
        {"formats/biliup": ["来了来了", "控制字符和引用", "还在"], "formats/biliup#2": ["二十分钟以后"]},
        {"super chat or gift": 1, "other message": 1, "malformed row": 1},
    ),
    "danmaku-render.ass": (
        "ass",
        {"formats/danmaku-render": ["来了, 来了", "{草} 生: 了"], "formats/danmaku-render#2": ["一小时了"]},
        {"another style": 1},
    ),
    "bililive-go.ass": (
        "ass",
        {"formats/bililive-go": ["来了来了", "比分: 3:2"]},
        {"another style": 2, "malformed row": 1},
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


def read(path: Path, settings: ReaderSettings = JSON, format: str | None = None) -> tuple[list[Document], Tally]:
    reader, tally = reader_of(path, format), Tally()
    assert reader is not None
    return list(documents(name_of(path), reader.rows(path, settings), settings, tally)), tally


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(path: Path, content: str | bytes, **options: object) -> list[str]:
    return [line for document in read(written(path, content), **options)[0] for line in document.lines]  # type: ignore[arg-type]


def d(text: str, p: str = "1.0,1,25,16777215,1584268892,0,a16fe0dd,2995") -> str:
    return f'<d p="{p}">{text}</d>'


def test_every_sample_is_expected_and_every_format_has_one() -> None:
    samples = {path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*") if path.is_file()}
    assert samples == set(EXPECTED)
    assert {format for format, _, _ in EXPECTED.values()} == set(FORMATS)


@pytest.mark.parametrize("sample", EXPECTED)
class TestEverySample:
    def test_is_recognised_and_gives_its_documents_and_drops(self, sample: str) -> None:
        format, expected, dropped = EXPECTED[sample]
        reader = reader_of(SAMPLES / sample)
        found, tally = read(SAMPLES / sample)
        assert reader is FORMATS[format]
        assert {document.id: document.lines for document in found} == expected
        assert tally.dropped == dropped

    def test_has_no_row_unaccounted_for(self, sample: str) -> None:
        found, tally = read(SAMPLES / sample)
        assert tally.rows == sum(len(document.lines) for document in found) + tally.dropped.total()

    def test_tells_nothing_about_people(self, sample: str) -> None:
        """Neither in documents nor in the reasons, which end in a report."""
        found, tally = read(SAMPLES / sample)
        told = repr(found) + repr(tally)
        assert [person for person in PEOPLE if person in told] == []

    def test_reads_the_same_under_a_name_without_suffix_if_its_format_is_named(
        self, sample: str, tmp_path: Path
    ) -> None:
        format, expected, _ = EXPECTED[sample]
        shutil.copy(SAMPLES / sample, tmp_path / "renamed")
        assert [doc.lines for doc in read(tmp_path / "renamed", format=format)[0]] == [*expected.values()]

    def test_reads_the_same_with_the_line_ends_and_the_mark_of_windows(self, sample: str, tmp_path: Path) -> None:
        format, expected, dropped = EXPECTED[sample]
        content = (SAMPLES / sample).read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\n", b"\r\n")
        path = written(tmp_path / sample, b"\xef\xbb\xbf" + content)
        found, tally = read(path)
        assert reader_of(path) is FORMATS[format]
        assert [doc.lines for doc in found] == [*expected.values()]
        assert tally.dropped == dropped

    def test_gives_nothing_if_it_is_empty(self, sample: str, tmp_path: Path) -> None:
        assert read(written(tmp_path / sample, b""))[0] == []

    def test_survives_being_cut_anywhere(self, sample: str, tmp_path: Path) -> None:
        """A recorder that died, a copy that broke off: what came before is read, and accounted for."""
        format, expected, _ = EXPECTED[sample]
        content = (SAMPLES / sample).read_bytes()
        whole = {line for texts in expected.values() for line in texts}
        for end in range(0, len(content), 97):
            found, tally = read(written(tmp_path / sample, content[:end]), format=format)
            kept = [line for document in found for line in document.lines]
            assert tally.rows == len(kept) + tally.dropped.total()
            assert len(set(kept) - whole) <= 1  # the line in which it was cut


def test_a_file_of_no_known_format_has_no_reader(tmp_path: Path) -> None:
    assert reader_of(written(tmp_path / "video.flv", b"FLV\x01")) is None


@pytest.mark.parametrize("sample", ["video.csv", "vod.xml", "danmaku-render.ass", "recorder.jsonl"])
def test_what_a_file_says_counts_more_than_its_suffix(sample: str, tmp_path: Path) -> None:
    content = (SAMPLES / sample).read_text(encoding="utf-8").replace("fillColor", "草,1,2019-01-01 00:00:00\n")
    reader = reader_of(written(tmp_path / "export.txt", content))
    assert reader is FORMATS[EXPECTED[sample][0]]


def test_a_danmaku_that_looks_like_another_format_does_not_make_a_text_one(tmp_path: Path) -> None:
    text = '{"text": "a"}\n<i>\n草,1,2019-01-01 00:00:00\n[Script Info]\n晚安\n晚安\n晚安\n晚安\n'
    assert reader_of(written(tmp_path / "t.txt", text)) is FORMATS["text"]


def test_a_new_line_is_the_only_end_of_a_row(tmp_path: Path) -> None:
    """Viewers paste the other separators that Unicode has."""
    exotic = "分\u2028行\x85\x0b\x1c然\u2029后"
    assert lines(tmp_path / "a.csv", f"{exotic},1,2019-01-01 00:00:00\n") == [exotic]
    assert lines(tmp_path / "a.txt", f"{exotic}\n") == [exotic]
    assert lines(tmp_path / "b.txt", f"TIME1:0ONLINE1\n1610516217493:1:{exotic}\n") == [exotic]


def test_a_row_without_end_is_dropped_without_being_held(tmp_path: Path) -> None:
    found, tally = read(written(tmp_path / "a.txt", "草\n" + "长" * MAX_ROW_BYTES + "\n晚安\n"))
    assert found[0].lines == ["草", "晚安"]
    assert tally.dropped == {"longer than a MiB": 1}


def test_a_document_ends_where_it_would_fill_the_memory() -> None:
    """Its parts belong to one source, and so to one side of the split."""
    found = list(documents("a", [Row("草")] * (2 * MAX_LINES + 1), JSON, Tally()))
    assert [(doc.id, len(doc.lines), doc.source) for doc in found] == [
        ("a", MAX_LINES, "a"),
        ("a#2", MAX_LINES, "a"),
        ("a#3", 1, "a"),
    ]


def test_documents_come_while_the_file_is_read() -> None:
    """A reader that would read on raises here."""

    def rows() -> object:
        yield Row("草", document="1")
        yield Row("好", document="2")
        raise AssertionError("read on")

    assert next(documents("a", rows(), JSON, Tally())).lines == ["草"]  # type: ignore[arg-type]


class TestCsv:
    @pytest.mark.parametrize(
        ("row", "text"),
        [
            ("草,1.5,2019-01-01 00:00:00", "草"),
            ("好听,真的,好听,1.5,2019-01-01 00:00:00", "好听,真的,好听"),
            (",,,1.5,2019-01-01 00:00:00", ",,"),
            ('"引号",7,2019-01-01 00:00:00', '"引号"'),
            ("Ｎｉｃｅ！😀,0.0,2019-01-01 00:00:00\r", "Ｎｉｃｅ！😀"),
            (",1,2019-01-01 00:00:00", ""),
        ],
    )
    def test_a_row_gives_its_text_whole(self, tmp_path: Path, row: str, text: str) -> None:
        """The text may hold commas and quotes; it ends before the last two columns."""
        assert lines(tmp_path / "1.csv", row + "\n") == [text]

    def test_rows_come_in_the_order_of_the_video(self, tmp_path: Path) -> None:
        """By seconds as numbers; those of the same second stay as they stand in the file."""
        rows = "".join(f"{row},2019-01-01 00:00:00\n" for row in ("c,10.0", "a,2", "d,10", "b,9.5"))
        assert lines(tmp_path / "1.csv", rows) == ["a", "b", "c", "d"]

    def test_rows_that_are_no_danmaku_are_counted(self, tmp_path: Path) -> None:
        """Fragments of scripts, rows without a valid time; empty rows at the end of a file are nothing at all."""
        rows = ["草,1,2019-01-01 00:00:00", "<script>", "草,x,2019-01-01 00:00:00", "草,1", "", " "]
        found, tally = read(written(tmp_path / "1.csv", "\n".join(rows)))
        assert ([doc.lines for doc in found], tally.rows, tally.dropped) == ([["草"]], 4, {"malformed row": 3})

    def test_bytes_that_are_not_utf8_spoil_one_character_only(self, tmp_path: Path) -> None:
        """The rest of the video is still read."""
        rows = b"a\xffb,1,2019-01-01 00:00:00\nc,2,2019-01-01 00:00:00\n"
        assert lines(tmp_path / "1.csv", rows) == ["a\ufffdb", "c"]


class TestDayFile:
    @pytest.mark.parametrize(("gap_s", "expected"), [(59.0, 2), (61.0, 1)])
    def test_the_gap_that_splits_can_be_chosen(self, tmp_path: Path, gap_s: float, expected: int) -> None:
        path = written(tmp_path / "2019-5-12.txt", "TIME9:59ONLINE1\n草\nTIME10:0ONLINE1\n草\n")
        assert len(read(path, ReaderSettings(session_gap_s=gap_s))[0]) == expected

    def test_a_silence_of_viewers_alone_splits_nothing(self, tmp_path: Path) -> None:
        """The count goes on every minute: the stream is on."""
        counts = "".join(f"TIME14:{minute}ONLINE58\n" for minute in range(60))
        path = written(tmp_path / "1.txt", f"TIME14:0ONLINE5\n1:早\n{counts}1:晚\nV1\n")
        assert [doc.lines for doc in read(path)[0]] == [["早", "晚"]]

    def test_midnight_splits_nothing(self, tmp_path: Path) -> None:
        path = written(tmp_path / "1.txt", "TIME23:59ONLINE1\n草\nTIME0:0ONLINE1\n草\n")
        assert len(read(path)[0]) == 1

    @pytest.mark.parametrize("trailer", ["", "V1\n", "SPEAKERNUM1;5:阿猫:3\n", "SPEAKERNUM1;5:阿猫:3\nV1\n"])
    def test_the_version_is_found_with_and_without_the_last_lines(self, tmp_path: Path, trailer: str) -> None:
        """A short number is a person's as well as a long one."""
        assert lines(tmp_path / "1.txt", f"TIME1:0ONLINE1\n5:草:好\n5:晚安\n{trailer}") == ["草:好", "晚安"]

    def test_two_rooms_on_one_day_are_two_names(self) -> None:
        assert name_of(Path("rooms/1000/2021-1-13.txt")) != name_of(Path("rooms/1001/2021-1-13.txt"))


class TestXml:
    @pytest.mark.parametrize("unit", [1, 1000])
    def test_seconds_and_milliseconds_split_alike(self, tmp_path: Path, unit: int) -> None:
        """Nine minutes of silence do not, eleven do."""
        times = (0, 540, 1200)
        rows = "".join(d("草", f"{t}.0,1,25,1,{(1610516217 + t) * unit},0,1,0") for t in times)
        assert [len(doc.lines) for doc in read(written(tmp_path / "a.xml", f"<i>{rows}</i>"))[0]] == [2, 1]

    def test_a_video_is_sorted_and_never_split(self, tmp_path: Path) -> None:
        """People write under it for years."""
        rows = d("后", "500.0,1,25,1,1400000000,0,a,9") + d("先", "2.0,1,25,1,1600000000,0,b,8")
        assert [doc.lines for doc in read(written(tmp_path / "a.xml", f"<i>{rows}</i>"))[0]] == [["先", "后"]]

    @pytest.mark.parametrize("mode", ["7", "8", "9"])
    def test_scripts_are_dropped(self, tmp_path: Path, mode: str) -> None:
        assert lines(tmp_path / "a.xml", f"<i>{d('x', f'1.0,{mode},25,1,1584268892,0,a,2')}{d('草')}</i>") == ["草"]

    @pytest.mark.parametrize("p", ["", "1,2", "nan,1,25,1,1,0,a,2", "1.0,x,25,1,1,0,a,2", "1.0,1,25,1,inf,0,a,2"])
    def test_what_has_not_the_fields_of_a_danmaku_is_malformed(self, tmp_path: Path, p: str) -> None:
        path = written(tmp_path / "a.xml", f"<i>{d('x', p)}<d>y</d>{d('草')}</i>")
        found, tally = read(path)
        assert ([doc.lines for doc in found], tally.dropped) == ([["草"]], {"malformed row": 2})

    def test_entities_cannot_attack(self, tmp_path: Path) -> None:
        """Whoever holds such a file learns its name."""
        lol = '<!DOCTYPE i [<!ENTITY a "哈哈哈哈"><!ENTITY b "&a;&a;&a;&a;">]>'
        path = written(tmp_path / "lol.xml", f'<?xml version="1.0"?>{lol}<i>{d("&b;")}</i>')
        with pytest.raises(ValueError, match=r"lol\.xml has a document type declaration"):
            read(path)

    def test_every_character_that_xml_forbids_is_taken_out(self, tmp_path: Path) -> None:
        forbidden = "".join(map(chr, [*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF]))
        references = "&#0;&#x1B;&#xFFFE;&#xD800;&#x110000;"
        assert lines(tmp_path / "a.xml", f"<i>{d(f'草{forbidden}{references}好&#x2764;&#10084;')}</i>") == ["草好❤❤"]

    def test_a_declared_encoding_that_is_not_so_changes_nothing(self, tmp_path: Path) -> None:
        assert lines(tmp_path / "a.xml", f'<?xml version="1.0" encoding="GB2312"?><i>{d("草")}</i>') == ["草"]

    def test_two_recordings_in_one_file_lose_a_danmaku_at_most(self, tmp_path: Path) -> None:
        one = f'<?xml version="1.0"?>\n<i>\n{d("草")}\n{d("好")}\n</i>\n'
        assert lines(tmp_path / "a.xml", one + one) == ["草", "好", "好"]

    def test_a_large_file_is_read_across_its_chunks(self, tmp_path: Path) -> None:
        """All on one line, as Bilibili sends it; a character may fall on the border of two chunks."""
        texts = [f"第{number}条弹幕" for number in range(5000)]
        rows = "".join(d(text, f"{number}.0,1,25,1,1,0,a,2") for number, text in enumerate(texts))
        assert lines(tmp_path / "a.xml", f"<i>{rows}</i>") == texts


class TestAss:
    def test_columns_are_those_that_the_file_names(self, tmp_path: Path) -> None:
        events = "[Events]\nFormat: Start, Style, Text\nDialogue: 0:00:01.00,R2L,{\\b1}草, 好\\N晚安\n"
        assert lines(tmp_path / "a.ass", f"[Script Info]\n{events}") == ["草, 好 晚安"]

    @pytest.mark.parametrize("text", ["阿猫", "{\\cffffff}阿猫:"])
    def test_what_may_be_a_name_alone_is_dropped(self, tmp_path: Path, text: str) -> None:
        line = f"Dialogue: 0,0:00:12.34,0:00:24.00,Danmaku,,0,0,44,Banner;6;0;30,{text}\n"
        assert lines(tmp_path / "a.ass", f"[Script Info]\n[Events]\n{line}") == []


class TestJsonLines:
    ROWS = (
        '{"msg": "b", "at": 2, "room": "x"}\n{"msg": "a", "at": "1.5", "room": "x"}\n{"msg": "c", "at": 3, "room": 7}\n'
    )

    def test_fields_are_those_that_are_named(self, tmp_path: Path) -> None:
        """A named document is sorted; its name is what the split goes by, whatever file it stands in."""
        settings = ReaderSettings(text_field="msg", time_field="at", document_field="room")
        found, _ = read(written(tmp_path / "a.jsonl", self.ROWS), settings)
        assert [(doc.lines, doc.source) for doc in found] == [(["a", "b"], "x"), (["c"], "7")]

    @pytest.mark.parametrize("field", ["text_field", "time_field", "document_field"])
    def test_a_field_that_is_not_there_is_an_error_that_names_those_that_are(self, tmp_path: Path, field: str) -> None:
        settings = ReaderSettings(**{"text_field": "msg", field: "nope"})  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match=f"no object has a field 'nope'; .* 'msg', 'at', 'room': .*--{field.replace('_', '-')}"
        ):
            read(written(tmp_path / "a.jsonl", self.ROWS), settings)

    @pytest.mark.parametrize(
        "time",
        ["1610516217", "1610516217493", '"1610516217.5"', '"2021-01-13T13:36:57+08:00"', '"2021-01-13T05:36:57Z"'],
    )
    def test_times_may_be_given_in_several_ways(self, tmp_path: Path, time: str) -> None:
        """An hour after the first there is another document, whichever way."""
        rows = f'{{"text": "早", "ts": {time}}}\n{{"text": "晚", "ts": 1610520000}}\n'
        assert len(read(written(tmp_path / "a.jsonl", rows))[0]) == 2

    @pytest.mark.parametrize("time", ["null", "true", '"soon"', "[1]", "1e999", '"nan"'])
    def test_what_is_no_time_is_malformed(self, tmp_path: Path, time: str) -> None:
        rows = f'{{"text": "早", "ts": 1}}\n{{"text": "晚", "ts": {time}}}\n'
        found, tally = read(written(tmp_path / "a.jsonl", rows))
        assert (found[0].lines, tally.dropped) == (["早"], Counter({"malformed row": 1}))

    def test_objects_that_are_something_else_may_come_first(self, tmp_path: Path) -> None:
        assert lines(tmp_path / "a.jsonl", '{"room": 1}\n{"text": "草", "ts": 1}\n') == ["草"]

    def test_half_a_surrogate_pair_can_be_written(self, tmp_path: Path) -> None:
        """JSON can say it, UTF-8 cannot."""
        (line,) = lines(tmp_path / "a.jsonl", '{"text": "草\\ud83d", "ts": 1}\n')
        assert line.encode() == "草\ufffd".encode()


def test_a_gap_must_be_more_than_nothing() -> None:
    with pytest.raises(ValueError, match="session_gap_s is 0"):
        ReaderSettings(session_gap_s=0)
